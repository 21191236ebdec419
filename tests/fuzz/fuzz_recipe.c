/* Recipes from any bytes: what is accepted, written out and read again is the same recipe. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "train/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bl__recipe a = {0}, b = {0};
    if (!size || bl__recipe_parse((const char *)data, size, NULL, 0, &a, NULL) != BL_OK)
        return 0;
    char *text = bl__recipe_text(&a);
    if (!text || bl__recipe_parse(text, strlen(text), NULL, 0, &b, NULL) != BL_OK)
        abort();
    char *again = bl__recipe_text(&b);
    if (!again || strcmp(text, again) != 0)
        abort();
    bl__schedule schedule = bl__recipe_schedule(&a);
    (void)bl__schedule_rate(&schedule, 1);
    bl__free(text);
    bl__free(again);
    bl__recipe_free(&a);
    bl__recipe_free(&b);
    return 0;
}
