#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "library/internal.h"

static _Thread_local struct {
  enum telefork_code code;
  int error;
  char text[TELEFORK_MESSAGE_SIZE];
} last;

static int errno_of(enum telefork_code code) {
  switch (code) {
    case TELEFORK_OK:
      return 0;
    case TELEFORK_USAGE:
      return EINVAL;
    case TELEFORK_REFUSED:
      return ENOTSUP;
    case TELEFORK_UNREACHABLE:
      return EHOSTUNREACH;
    case TELEFORK_UNAUTHORISED:
      return EACCES;
    case TELEFORK_LOST:
      return ECONNRESET;
    case TELEFORK_CORRUPT:
      return EPROTO;
    case TELEFORK_RESOURCES:
      return EAGAIN;
    case TELEFORK_UNSUPPORTED:
      return ENOSYS;
    case TELEFORK_GONE:
      return ESRCH;
    case TELEFORK_FAILED:
      break;
  }
  return EIO;
}

void tf_set_error(enum telefork_code code, int error, const char* format, ...) {
  last.code = code;
  last.error = error > 0 ? error : errno_of(code);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last.text, sizeof last.text, format, arguments);
  va_end(arguments);
}

int tf_error_errno(void) { return last.error; }

const char* telefork_error(void) { return last.text; }

int telefork_error_code(void) { return last.code; }
