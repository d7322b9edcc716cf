#include "policy.h"

#include <stdlib.h>

static int compare_numbers(double a, double b) { return (a > b) - (a < b); }

static int compare(const void *left, const void *right) {
  const struct point *a = left, *b = right;
  if (a->meets_sla != b->meets_sla) return a->meets_sla ? -1 : 1;
  int order;
  if (a->meets_sla) {
    order = compare_numbers(a->gpus, b->gpus);
    if (order == 0) order = compare_numbers(b->tokens_per_second_per_gpu, a->tokens_per_second_per_gpu);
  } else {
    order = compare_numbers(a->latency_ms, b->latency_ms);
  }
  /* The last word makes the answer independent of the order of the input. */
  if (order == 0) order = compare_numbers(a->candidate, b->candidate);
  return order != 0 ? order : compare_numbers(a->concurrency, b->concurrency);
}

size_t rank(struct point *points, size_t n) {
  size_t kept = 0;
  if (n == 0) return 0;
  qsort(points, n, sizeof *points, compare);
  for (size_t i = 0; i < n; i++) {
    bool seen = false;
    for (size_t j = 0; j < kept && !seen; j++) seen = points[j].candidate == points[i].candidate;
    if (!seen) points[kept++] = points[i];
  }
  return kept;
}

double score(const struct point *p) {
  if (!p->meets_sla) return -p->latency_ms;
  /* A GPU less outweighs any throughput: the second part stays below 1. */
  return -(double)p->gpus + p->tokens_per_second_per_gpu / (1e6 + p->tokens_per_second_per_gpu);
}
