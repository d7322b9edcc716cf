/* What every C plugin needs; leave as it is. Include the bindings and define WORLD first.

   C has no exceptions to catch. What is guarded here is memory, whose lack would be a bare trap, and text: stdio (even
   `snprintf`) asks for WASI, which the sandbox does not have, so numbers are written by hand. Memory: the bindings free
   what a function returns; every string in it must come from `text`. */
#ifndef GUARDED_H
#define GUARDED_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A line for the run's log. */
static inline void say(sla_profiler_base_log_level_t level, const char *message) {
  WORLD(string_t) line;
  WORLD(string_set)(&line, message);
  sla_profiler_base_log_write(level, &line);
}

/* Ends the call with a message instead of a bare trap. */
static inline void fail(const char *message) {
  say(SLA_PROFILER_BASE_LOG_LEVEL_ERROR, message);
  __builtin_trap();
}

/* Memory of zeros. */
static inline void *guarded_alloc(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) fail("out of memory");
  return memory;
}

/* A copy of `from`, for an answer. */
static inline void text(WORLD(string_t) *to, const char *from) {
  size_t n = strlen(from);
  to->ptr = guarded_alloc(n, 1);
  to->len = n;
  memcpy(to->ptr, from, n);
}

/* Appends to a buffer that is large enough; both return its end. */
static inline char *put_text(char *to, const char *from) {
  size_t n = strlen(from);
  memcpy(to, from, n + 1);
  return to + n;
}

static inline char *put_number(char *to, double value, unsigned decimals) {
  uint64_t scale = 1;
  for (unsigned i = 0; i < decimals; i++) scale *= 10;
  uint64_t scaled = (uint64_t)(fmin(fabs(value), 1e12) * (double)scale + 0.5), whole = scaled / scale;
  char digits[24];
  size_t n = 0;
  do digits[n++] = (char)('0' + whole % 10);
  while (whole /= 10);
  if (value < 0) *to++ = '-';
  while (n > 0) *to++ = digits[--n];
  if (decimals > 0) *to++ = '.';
  for (uint64_t unit = scale / 10; unit > 0; unit /= 10) *to++ = (char)('0' + scaled / unit % 10);
  *to = 0;
  return to;
}

/* The user's value of a setting as a number from `least` to `most`; NaN where it is none. */
static inline double number_setting(const sla_profiler_base_types_job_t *job, const char *name, double otherwise,
                                    double least, double most) {
  for (size_t i = 0; i < job->settings.len; i++) {
    const WORLD(tuple2_string_string_t) *setting = &job->settings.ptr[i];
    if (setting->f0.len != strlen(name) || memcmp(setting->f0.ptr, name, setting->f0.len) != 0) continue;
    double value = 0, unit = 0;
    size_t digits = 0;
    for (size_t k = 0; k < setting->f1.len; k++) {
      char c = (char)setting->f1.ptr[k];
      if (c == '.' && unit == 0) { unit = 1; continue; }
      if (c < '0' || c > '9' || ++digits > 15) return NAN;
      if (unit > 0) value += (unit /= 10) * (c - '0');
      else value = value * 10 + (c - '0');
    }
    return digits > 0 && value >= least && value <= most ? value : NAN;
  }
  return otherwise;
}

#endif
