/* Owns the choice of subcommand. */
#include <stdio.h>

int main(void) {
    puts("bitloom");
    return 0;
}
