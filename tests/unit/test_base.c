/* Checks src/base: errors, checked sizes, reader, buffer, arena, allocator, halves, random numbers.
 * Files are in test_file.c, threads in test_pool.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/buffer.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/random.h"
#include "bitloom/status.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---- errors ---- */

static void status_texts_and_values_are_pinned(void **state) {
    (void)state;
    assert_int_equal(BL_OK, 0);
    assert_int_equal(BL_ERR_CANCELLED, 9);
    assert_string_equal(bl_status_text(BL_OK), "success");
    assert_string_equal(bl_status_text(BL_ERR_MEMORY), "out of memory");
    assert_string_equal(bl_status_text((bl_status)4711), "unknown status");
}

static void error_text_is_written_cut_and_blanked(void **state) {
    (void)state;
    bl_error err;
    assert_int_equal(bl__fail(NULL, BL_ERR_IO, "%s", "nobody listens"), BL_ERR_IO);
    assert_int_equal(bl__fail(&err, BL_ERR_FORMAT, "key %s: %d", "a\x1b[2Jb\x1f\x7f", 7),
                     BL_ERR_FORMAT);
    assert_int_equal(err.code, BL_ERR_FORMAT);
    assert_string_equal(err.message, "key a?[2Jb??: 7");
    bl__fail(&err, BL_ERR_FORMAT, "%s", "caf\xc3\xa9"); /* UTF-8 stays */
    assert_string_equal(err.message, "caf\xc3\xa9");

    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    bl__fail(&err, BL_ERR_LIMIT, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

static void error_prefix_goes_first_and_keeps_the_code(void **state) {
    (void)state;
    bl_error err;
    bl__fail(&err, BL_ERR_FORMAT, "tensor 3: bad type");
    bl__error_prefix(&err, "dir\t/model.gguf");
    assert_string_equal(err.message, "dir?/model.gguf: tensor 3: bad type");
    assert_int_equal(err.code, BL_ERR_FORMAT);
    bl__error_prefix(NULL, "nobody listens");

    char text[1000];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    bl__error_prefix(&err, text); /* a long prefix leaves room for the message */
    assert_non_null(strstr(err.message, "tensor 3: bad type"));
}

/* ---- checked arithmetic ---- */

static void sizes_overflow_to_false_and_leave_the_output(void **state) {
    (void)state;
    size_t out = 42;
    assert_false(bl__add_size(SIZE_MAX, 1, &out));
    assert_false(bl__mul_size(SIZE_MAX / 2 + 1, 2, &out));
    assert_false(bl__align_size(SIZE_MAX - 62, 64, &out));
    assert_int_equal(out, 42);
    assert_true(bl__add_size(SIZE_MAX, 0, &out));
    assert_true(out == SIZE_MAX);
    assert_true(bl__mul_size(SIZE_MAX, 0, &out));
    assert_int_equal(out, 0);
    assert_true(bl__align_size(SIZE_MAX - 63, 64, &out));
    assert_true(out == SIZE_MAX - 63);
    assert_true(bl__align_size(0, 64, &out));
    assert_int_equal(out, 0);
    assert_true(bl__align_size(65, 64, &out));
    assert_int_equal(out, 128);
    assert_int_equal(bl__min_size(3, 5), 3);
    assert_int_equal(bl__min_size(5, 3), 3);
}

/* ---- reader ---- */

static void reader_never_passes_the_end(void **state) {
    (void)state;
    const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (size_t len = 0; len <= sizeof bytes; len++) {
        bl__reader r = {bytes, len, 0};
        uint64_t u64 = 42;
        const uint8_t *slice = NULL;
        assert_true(bl__read_u64(&r, &u64) == (len == 8));
        assert_true(len == 8 || (u64 == 42 && r.off == 0)); /* refused: nothing moved */
        r.off = 0;
        assert_false(bl__read_bytes(&r, len + 1, &slice));
        assert_false(bl__read_bytes(&r, SIZE_MAX, &slice)); /* off + n would wrap */
        assert_null(slice);
        assert_true(bl__read_bytes(&r, len, &slice));
        assert_ptr_equal(slice, bytes);
        assert_int_equal(bl__reader_left(&r), 0);
        uint8_t u8 = 42;
        assert_false(bl__read_u8(&r, &u8));
        assert_false(bl__read_bytes(&r, SIZE_MAX, &slice));
        assert_int_equal(u8, 42);
    }
}

static void reader_is_little_endian(void **state) {
    (void)state;
    const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 0, 0x80, 0x3f};
    bl__reader r = {bytes, sizeof bytes, 0};
    uint8_t u8 = 0;
    uint16_t u16 = 0;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    float f32 = 0;
    assert_true(bl__read_u8(&r, &u8) && bl__read_u16(&r, &u16) && bl__read_u32(&r, &u32));
    assert_true(bl__read_u64(&r, &u64) && bl__read_f32(&r, &f32));
    assert_int_equal(u8, 1);
    assert_int_equal(u16, 0x0302);
    assert_int_equal(u32, 0x07060504);
    assert_true(u64 == 0x0f0e0d0c0b0a0908u);
    assert_true(f32 == 1.0f);
    assert_int_equal(bl__reader_left(&r), 0);
    assert_int_equal(bl__load_u16(bytes + 1), 0x0302);
    assert_int_equal(bl__load_u32(bytes + 3), 0x07060504);
    assert_true(bl__load_u64(bytes + 7) == 0x0f0e0d0c0b0a0908u);
    assert_true(bl__load_f32(bytes + 15) == 1.0f);
}

/* ---- buffer ---- */

static void buffer_grows_stops_at_its_cap_and_is_taken(void **state) {
    (void)state;
    bl__buffer buffer = bl__buffer_make(1000);
    for (int i = 0; i < 100; i++)
        assert_true(bl__buffer_printf(&buffer, "%08d|", i) && bl__buffer_putc(&buffer, ';'));
    assert_int_equal(buffer.len, 1000);
    assert_int_equal(strlen(buffer.data), 1000);
    assert_true(bl__buffer_append(&buffer, NULL, 0)); /* full, and nothing is nothing */
    assert_false(bl__buffer_putc(&buffer, 'x'));
    assert_true(buffer.failed && buffer.too_large);
    assert_int_equal(buffer.len, 1000);
    assert_false(bl__buffer_puts(&buffer, "")); /* failed once, failed for good */
    assert_null(bl__buffer_take(&buffer, NULL));
    bl__buffer_free(&buffer);
    assert_int_equal(buffer.max, 1000);

    assert_true(bl__buffer_puts(&buffer, "two ") && bl__buffer_append(&buffer, "words", 5));
    size_t len = 0;
    char *text = bl__buffer_take(&buffer, &len);
    assert_string_equal(text, "two words");
    assert_int_equal(len, 9);
    assert_null(buffer.data);
    bl__free(text);
    text = bl__buffer_take(&buffer, &len); /* an empty buffer gives an empty string */
    assert_string_equal(text, "");
    assert_int_equal(len, 0);
    bl__free(text);
}

static void buffer_survives_failing_memory(void **state) {
    (void)state;
    bl__buffer buffer = bl__buffer_make(SIZE_MAX);
    assert_true(bl__buffer_puts(&buffer, "kept"));
    assert_false(bl__buffer_reserve(&buffer, SIZE_MAX)); /* the sum overflows */
    assert_true(buffer.too_large);
    bl__buffer_free(&buffer);

    assert_true(bl__buffer_puts(&buffer, "kept"));
    bl__alloc_fail_at(1);
    assert_false(bl__buffer_reserve(&buffer, 10000));
    bl__alloc_fail_at(0);
    assert_true(buffer.failed);
    assert_false(buffer.too_large);
    assert_string_equal(buffer.data, "kept");
    bl__buffer_free(&buffer);
    bl__buffer_free(&buffer);
}

static void buffer_reserve_makes_appends_certain(void **state) {
    (void)state;
    bl__buffer buffer = bl__buffer_make(1 << 20);
    assert_true(bl__buffer_reserve(&buffer, 100000));
    long before = bl__alloc_count();
    for (int i = 0; i < 100000; i++)
        assert_true(bl__buffer_putc(&buffer, 'z'));
    assert_int_equal(bl__alloc_count(), before);
    bl__buffer_free(&buffer);
}

/* ---- allocator and arena ---- */

static void allocator_refuses_overflow_and_fails_on_demand(void **state) {
    (void)state;
    assert_null(bl__malloc_array(SIZE_MAX / 2, 3));
    assert_null(bl__realloc_array(NULL, SIZE_MAX / 2, 3));
    assert_null(bl__strndup("", SIZE_MAX));
    assert_null(bl__aligned_alloc(SIZE_MAX - 10));

    char *copy = bl__strndup("abcdef", 3);
    assert_string_equal(copy, "abc");
    bl__free(copy);
    void *nothing[] = {bl__malloc(0), bl__calloc(0, 8), bl__aligned_alloc(0)};
    for (size_t i = 0; i < 3; i++)
        assert_non_null(nothing[i]);
    bl__free(nothing[0]);
    bl__free(nothing[1]);
    bl__aligned_free(nothing[2]);
    bl__free(NULL);
    bl_free(NULL);
    bl__aligned_free(NULL);

    long before = bl__alloc_count();
    bl__alloc_fail_at(2);
    void *first = bl__malloc(8), *second = bl__calloc(1, 8), *third = bl__aligned_alloc(8);
    assert_non_null(first);
    assert_null(second);
    assert_non_null(third); /* once only */
    assert_int_equal(bl__alloc_count() - before, 3);
    bl__free(first);
    bl__aligned_free(third);
}

static void aligned_memory_is_aligned_and_zeroed(void **state) {
    (void)state;
    const size_t sizes[] = {1, 63, 64, 4097, (size_t)9 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *memory = bl__aligned_alloc(sizes[i]);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        uint8_t any = 0;
        for (size_t k = 0; k < sizes[i]; k++)
            any |= memory[k];
        assert_int_equal(any, 0);
        bl__aligned_free(memory);
    }
}

/* One layout, run on both kinds of arena. */
static void lay_out(bl__arena *arena, uint8_t *out[4]) {
    out[0] = bl__arena_alloc(arena, 3, 5);
    out[1] = bl__arena_alloc(arena, 0, 8);
    out[2] = bl__arena_alloc(arena, 1, 64);
    out[3] = bl__arena_alloc(arena, 65, 1);
}

static void arena_measures_what_it_then_needs(void **state) {
    (void)state;
    uint8_t *pieces[4];
    bl_error err;
    bl__arena measuring = bl__arena_measuring(), arena;
    lay_out(&measuring, pieces);
    assert_false(measuring.overflowed);
    assert_int_equal(measuring.used, 64 + 0 + 64 + 128);
    for (int i = 0; i < 4; i++)
        assert_null(pieces[i]);

    assert_int_equal(bl__arena_create(measuring.used, &arena, &err), BL_OK);
    lay_out(&arena, pieces);
    assert_false(arena.overflowed);
    assert_int_equal(arena.used, measuring.used);
    for (int i = 0; i < 4; i++)
        assert_int_equal((uintptr_t)pieces[i] % 64, 0);
    memset(pieces[0], 1, 15);
    memset(pieces[3], 3, 65);
    assert_int_equal(pieces[2][0], 0);
    assert_null(bl__arena_alloc(&arena, 1, 1)); /* full */
    assert_true(arena.overflowed);
    bl__arena_destroy(&arena);
    bl__arena_destroy(&arena);

    assert_null(bl__arena_alloc(&measuring, SIZE_MAX / 2, 3));
    assert_true(measuring.overflowed);
    measuring = bl__arena_measuring();
    bl__arena_alloc(&measuring, SIZE_MAX - 100, 1);
    assert_false(measuring.overflowed);
    bl__arena_alloc(&measuring, 200, 1); /* the sum overflows */
    assert_true(measuring.overflowed);

    bl__alloc_fail_at(1);
    assert_int_equal(bl__arena_create(64, &arena, &err), BL_ERR_MEMORY);
    bl__alloc_fail_at(0);
}

/* ---- halves ---- */

/* The definition, in arithmetic that is exact in double. */
static double half_by_definition(unsigned h) {
    int exponent = (int)(h >> 10 & 31);
    double fraction = (double)(h & 1023u);
    double magnitude = exponent ? ldexp(1024.0 + fraction, exponent - 25) : ldexp(fraction, -24);
    return h & 0x8000u ? -magnitude : magnitude;
}

static void every_half_widens_exactly(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x10000u; h++) {
        float f = bl__f16_to_f32((uint16_t)h);
        if ((h & 0x7c00u) == 0x7c00u) {
            assert_true(h & 0x3ffu ? isnan(f) : isinf(f));
            assert_int_equal(signbit(f) != 0, h >> 15);
            continue;
        }
        double expected = half_by_definition(h);
        assert_true((double)f == expected && (signbit(f) != 0) == (h >> 15));
        assert_int_equal(bl__f32_to_f16(f), h); /* and narrows back */
    }
}

/* Narrowing is monotone, so it is right everywhere when it is right around every point where the
 * result changes: the middle between neighbours, one float below it and one above. */
static void every_half_boundary_rounds_to_even(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x7c00u; h++) {
        double low = half_by_definition(h), high = half_by_definition(h + 1);
        float middle = (float)((low + high) / 2); /* exact: one bit more than a half has */
        unsigned even = h & 1u ? h + 1 : h;
        for (unsigned sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            unsigned bit = sign << 15;
            assert_int_equal(bl__f32_to_f16(s * middle), bit | even);
            assert_int_equal(bl__f32_to_f16(s * nextafterf(middle, 0.0f)), bit | h);
            assert_int_equal(bl__f32_to_f16(s * nextafterf(middle, INFINITY)), bit | (h + 1));
        }
    }
    assert_int_equal(bl__f32_to_f16(3.4e38f), 0x7c00);
    assert_int_equal(bl__f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(bl__f32_to_f16(1e-45f), 0);
    assert_true(isnan(bl__f16_to_f32(bl__f32_to_f16(NAN))));
}

static void every_bfloat_boundary_rounds_to_even(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x7f80u; h++) {
        float low = bl__bf16_to_f32((uint16_t)h);
        assert_int_equal(bl__f32_bits(low), h << 16);
        unsigned even = h & 1u ? h + 1 : h;
        for (unsigned sign = 0; sign < 2; sign++) {
            uint32_t bits = sign << 31 | h << 16;
            assert_int_equal(bl__f32_to_bf16(bl__bits_f32(bits)), sign << 15 | h);
            assert_int_equal(bl__f32_to_bf16(bl__bits_f32(bits | 0x7fffu)), sign << 15 | h);
            assert_int_equal(bl__f32_to_bf16(bl__bits_f32(bits | 0x8000u)), sign << 15 | even);
            assert_int_equal(bl__f32_to_bf16(bl__bits_f32(bits | 0x8001u)), sign << 15 | (h + 1));
        }
    }
    assert_int_equal(bl__f32_to_bf16(INFINITY), 0x7f80);
    assert_true(isnan(bl__bf16_to_f32(bl__f32_to_bf16(bl__bits_f32(0x7f800001u)))));
    assert_true(isnan(bl__bf16_to_f32(bl__f32_to_bf16(bl__bits_f32(0xffffffffu)))));
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static void compare_with_hardware(void) {
    for (uint64_t i = 0; i < UINT64_C(1) << 32; i += 1021) { /* 1021 is prime: no pattern of bits */
        float f = bl__bits_f32((uint32_t)i);
        __m128i narrow = _mm_cvtps_ph(_mm_set_ss(f), _MM_FROUND_TO_NEAREST_INT);
        uint16_t expected = (uint16_t)_mm_extract_epi16(narrow, 0);
        uint16_t found = bl__f32_to_f16(f);
        if (isnan(f) ? !isnan(bl__f16_to_f32(found)) : found != expected)
            fail_msg("%a: %04x, the processor gives %04x", (double)f, found, expected);
    }
    for (unsigned h = 0; h < 0x10000u; h++) {
        float expected = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)h)));
        float found = bl__f16_to_f32((uint16_t)h);
        if (!isnan(expected))
            assert_int_equal(bl__f32_bits(found), bl__f32_bits(expected));
    }
}
#endif

static void halves_agree_with_the_processor(void **state) {
    (void)state;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) { /* every processor with AVX2 has F16C */
        compare_with_hardware();
        return;
    }
#endif
    skip();
}

/* ---- random numbers ---- */

static void random_numbers_are_the_published_ones(void **state) {
    (void)state;
    /* State after seeding with 1234567: the first outputs of SplitMix64 for that seed. */
    static const uint64_t seeded[4] = {6457827717110365317u, 3203168211198807973u,
                                       9817491932198370423u, 4593380528125082431u};
    /* Outputs of the authors' xoshiro256starstar.c from the state {1, 2, 3, 4}. */
    static const uint64_t outputs[10] = {
        11520u,
        0u,
        1509978240u,
        1215971899390074240u,
        1216172134540287360u,
        607988272756665600u,
        16172922978634559625u,
        8476171486693032832u,
        10595114339597558777u,
        2904607092377533576u,
    };
    bl__random random;
    bl__random_seed(&random, 1234567);
    for (int i = 0; i < 4; i++)
        assert_true(random.state[i] == seeded[i]);
    for (uint64_t i = 0; i < 4; i++)
        random.state[i] = i + 1;
    for (int i = 0; i < 10; i++)
        assert_true(bl__random_u64(&random) == outputs[i]);
}

static void random_ranges_hold(void **state) {
    (void)state;
    bl__random random;
    bl__random_seed(&random, 0);
    unsigned counts[7] = {0};
    double sum = 0;
    for (int i = 0; i < 70000; i++) {
        double x = bl__random_f64(&random);
        assert_true(x >= 0 && x < 1);
        sum += x;
        uint64_t n = bl__random_below(&random, 7);
        assert_true(n < 7);
        counts[n]++;
    }
    assert_true(fabs(sum / 70000 - 0.5) < 0.01);
    for (int i = 0; i < 7; i++)
        assert_in_range(counts[i], 9500, 10500);
    assert_int_equal(bl__random_below(&random, 1), 0);
    random.state[0] = random.state[1] = random.state[2] = random.state[3] = UINT64_MAX;
    assert_true(bl__random_below(&random, UINT64_MAX) < UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_texts_and_values_are_pinned),
        cmocka_unit_test(error_text_is_written_cut_and_blanked),
        cmocka_unit_test(error_prefix_goes_first_and_keeps_the_code),
        cmocka_unit_test(sizes_overflow_to_false_and_leave_the_output),
        cmocka_unit_test(reader_never_passes_the_end),
        cmocka_unit_test(reader_is_little_endian),
        cmocka_unit_test(buffer_grows_stops_at_its_cap_and_is_taken),
        cmocka_unit_test(buffer_survives_failing_memory),
        cmocka_unit_test(buffer_reserve_makes_appends_certain),
        cmocka_unit_test(allocator_refuses_overflow_and_fails_on_demand),
        cmocka_unit_test(aligned_memory_is_aligned_and_zeroed),
        cmocka_unit_test(arena_measures_what_it_then_needs),
        cmocka_unit_test(every_half_widens_exactly),
        cmocka_unit_test(every_half_boundary_rounds_to_even),
        cmocka_unit_test(every_bfloat_boundary_rounds_to_even),
        cmocka_unit_test(halves_agree_with_the_processor),
        cmocka_unit_test(random_numbers_are_the_published_ones),
        cmocka_unit_test(random_ranges_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
