/* Where a Multiboot loader enters (Multiboot Specification 0.6.96): 32-bit mode without paging. Maps
 * the first GiB onto itself, allows AVX-512 and AMX, goes to 64-bit mode (Intel SDM volume 3,
 * 9.8.5) and calls bare_main, never to come back. */
    .set MAGIC, 0x1badb002
    .set CR0_PG_MP, 0x80000002
    .set CR0_EM, 4
    .set CR4_PAE_FXSR_XMM_XSAVE, 0x40620
    .set EFER, 0xc0000080
    .set EFER_LME, 0x100
    .set XCR0_AVX512_AMX, 0x600e7
    .set PRESENT, 3
    .set LARGE, 0x83

    .section .multiboot, "a"
    .align 4
    .long MAGIC, 0, -MAGIC

    .bss
    .align 4096
level4: .skip 4096
level3: .skip 4096
level2: .skip 4096
    .skip 0x400000
stack:

    .section .rodata
    .align 8
descriptors:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
where_descriptors:
    .word 23
    .long descriptors

    .section .text.start, "ax"
    .code32
    .global start
start:
    movl $level3 + PRESENT, level4
    movl $level2 + PRESENT, level3
    xorl %ecx, %ecx
0:  movl %ecx, %eax
    shll $21, %eax
    orl $LARGE, %eax
    movl %eax, level2(, %ecx, 8)
    incl %ecx
    cmpl $512, %ecx
    jne 0b
    movl $level4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $CR4_PAE_FXSR_XMM_XSAVE, %eax
    movl %eax, %cr4
    movl $EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    andl $~CR0_EM, %eax
    orl $CR0_PG_MP, %eax
    movl %eax, %cr0
    lgdt where_descriptors
    ljmp $8, $in_64_bits

    .code64
in_64_bits:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $XCR0_AVX512_AMX, %eax
    xsetbv
    movl $stack, %esp
    call bare_main
1:  cli
    hlt
    jmp 1b

    .section .note.GNU-stack, "", @progbits
