/* GPT-2's byte alphabet: a printable character for each of the 256 bytes, so that byte-level BPE
 * vocabularies can be written as text (Radford et al. 2019, encoder.py).
 *
 * Bytes 33-126, 161-172 and 174-255 stand for themselves; the other 68 take U+0100 ... U+0143 in
 * ascending order. */
#ifndef BL_TOKENIZER_BYTELEVEL_H
#define BL_TOKENIZER_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Code point that stands for a byte. */
static inline uint32_t bl__bytelevel_char(uint8_t byte) {
    if (byte <= 32)
        return 0x100u + byte;
    if (byte >= 127 && byte <= 160)
        return 0x100u + 33u + (byte - 127u);
    return byte == 173 ? 0x143u : byte;
}

/* The byte that a code point stands for; false when it is outside the alphabet. */
static inline bool bl__bytelevel_byte(uint32_t c, uint8_t *byte) {
    if (c >= 0x100 && c <= 0x143) {
        uint32_t i = c - 0x100;
        *byte = (uint8_t)(i <= 32 ? i : i <= 66 ? 127 + (i - 33) : 173);
        return true;
    }
    *byte = (uint8_t)c;
    return c < 0x100 && bl__bytelevel_char((uint8_t)c) == c;
}

#endif
