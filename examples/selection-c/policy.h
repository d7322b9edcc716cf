/* The rule of select-smallest, apart from the contract, so that it can be tested natively. */
#ifndef POLICY_H
#define POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One measured operating point of one candidate. */
struct point {
  uint32_t candidate, concurrency, gpus;
  double latency_ms;
  double tokens_per_second_per_gpu;
  bool meets_sla;
};

/* Sorts best first and keeps the best point of each candidate; returns how many are left.
   Points within the SLA come first: fewest GPUs, then most tokens per second and GPU. The others: lowest latency. */
size_t rank(struct point *points, size_t n);

/* Higher is better, in the order of `rank` within one verdict. */
double score(const struct point *p);

#endif
