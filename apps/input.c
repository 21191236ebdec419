/* Owns the reading of files and pipes. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "terminal.h"

static const size_t MAX_INPUT = (size_t)1 << 30;
enum { READ_CHUNK = 65536 };

bl_status read_input(const char *path, char **data, size_t *len, bl_error *err) {
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return bl__fail(err, errno == ENOENT ? BL_ERR_NOT_FOUND : BL_ERR_IO, "%s: %s", name,
                        strerror(errno));
    bl_status status = BL_OK;
    bl__buffer buffer = bl__buffer_make(MAX_INPUT);
    for (ssize_t n = 1; n != 0 && status == BL_OK;) {
        if (!bl__buffer_reserve(&buffer, READ_CHUNK)) {
            status = bl__fail(err, buffer.too_large ? BL_ERR_LIMIT : BL_ERR_MEMORY,
                              "%s: more than %zu bytes", name, MAX_INPUT);
            break;
        }
        n = read(fd, buffer.data + buffer.len, READ_CHUNK);
        if (n < 0)
            status = errno == EINTR && interrupts_seen()
                         ? bl__fail(err, BL_ERR_CANCELLED, "%s: interrupted", name)
                         : bl__fail(err, BL_ERR_IO, "%s: %s", name, strerror(errno));
        else
            buffer.len += (size_t)n;
    }
    if (!is_stdin)
        close(fd);
    if (status == BL_OK) {
        *data = bl__buffer_take(&buffer, len);
        if (!*data)
            status = bl__fail(err, BL_ERR_MEMORY, "%s: out of memory", name);
    }
    bl__buffer_free(&buffer);
    return status;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void unescape(char *text, size_t *len) {
    static const char letters[] = "ntr\\\"'0", values[] = "\n\t\r\\\"'\0";
    size_t out = 0;
    for (size_t i = 0; i < *len; i++) {
        if (text[i] != '\\' || i + 1 == *len) {
            text[out++] = text[i];
            continue;
        }
        const char *letter = memchr(letters, text[i + 1], sizeof letters - 1);
        if (letter) {
            text[out++] = values[letter - letters];
            i++;
        } else if (text[i + 1] == 'x' && *len - i >= 4 && hex_digit(text[i + 2]) >= 0 &&
                   hex_digit(text[i + 3]) >= 0) {
            text[out++] = (char)(hex_digit(text[i + 2]) * 16 + hex_digit(text[i + 3]));
            i += 3;
        } else {
            text[out++] = text[i];
        }
    }
    *len = out;
    text[out] = '\0';
}
