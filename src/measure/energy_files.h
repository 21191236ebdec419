/* Private to measure/: the short texts that sysfs is made of. */
#ifndef BL_MEASURE_ENERGY_FILES_H
#define BL_MEASURE_ENERGY_FILES_H

#include <stdbool.h>

enum { BL_ENERGY_TEXT = 256 };

/* The text of folder/file without the newline at its end; longer ones are cut. errno tells of a
 * failure. */
bool bl__energy_read_text(const char *folder, const char *file, char out[BL_ENERGY_TEXT]);

#endif
