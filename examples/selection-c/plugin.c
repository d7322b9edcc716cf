/* select-smallest: the fewest GPUs per engine that meet the SLA. This file is the contract's side: lists in, lists out.

   Memory: wit-bindgen frees what is returned; every string in it must come from malloc (`_string_dup`). */

#include "selection_policy.h"
#include "policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef exports_sla_profiler_selection_policy_list_choice_t choices_t;

/* C has no exceptions to catch: what is `guarded` here is memory, whose lack would be a bare trap. */
static void *guarded_malloc(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) {
    selection_policy_string_t message;
    selection_policy_string_set(&message, "select-smallest: out of memory");
    sla_profiler_base_log_write(SLA_PROFILER_BASE_LOG_LEVEL_ERROR, &message);
    __builtin_trap();
  }
  return memory;
}

void exports_sla_profiler_base_about_describe(exports_sla_profiler_base_about_description_t *ret) {
  memset(ret, 0, sizeof *ret);
  selection_policy_string_dup(&ret->name, "select-smallest");
  selection_policy_string_dup(&ret->version, "0.1.0");
  selection_policy_string_dup(&ret->summary, "Fewest GPUs per engine within the SLA.");
}

/* stdio would ask for WASI, which the sandbox does not have; so numbers are written by hand. Returns the end. */
static char *write_number(char *to, uint32_t value) {
  char digits[10];
  size_t n = 0;
  do digits[n++] = (char)('0' + value % 10);
  while (value /= 10);
  while (n > 0) *to++ = digits[--n];
  return to;
}

static char *write_text(char *to, const char *text) {
  size_t n = strlen(text);
  memcpy(to, text, n);
  return to + n;
}

/* The ranking of one role. An end-to-end target is not looked at: `select` refuses it. */
static void rank_role(uint8_t role, selection_policy_option_f64_t limit_ms,
                      const exports_sla_profiler_selection_policy_job_t *job,
                      const exports_sla_profiler_selection_policy_candidates_t *all,
                      const sla_profiler_base_types_measurements_t *m, choices_t *ret) {
  bool prefill = role == SLA_PROFILER_BASE_TYPES_ROLE_PREFILL;
  const double *latency = prefill ? m->ttft_ms.target.ptr : m->itl_ms.target.ptr;
  const double *rate = prefill ? m->input_tokens_per_second_per_gpu.ptr : m->output_tokens_per_second_per_gpu.ptr;
  struct point *points = guarded_malloc(m->candidate.len, sizeof *points);
  size_t n = 0;
  for (size_t i = 0; i < m->candidate.len; i++) {
    uint32_t id = m->candidate.ptr[i];
    if (id >= all->role.len || all->role.ptr[id] != role || !isfinite(latency[i]) || !isfinite(rate[i])) continue;
    if (m->isl.ptr[i] != job->workload.isl || (!prefill && m->osl.ptr[i] != job->workload.osl)) continue;
    points[n++] = (struct point){id, m->concurrency.ptr[i], all->gpus.ptr[id], latency[i], rate[i],
                                 !limit_ms.is_some || latency[i] <= limit_ms.val};
  }
  n = rank(points, n);
  ret->ptr = guarded_malloc(n, sizeof *ret->ptr);
  ret->len = n;
  for (size_t i = 0; i < n; i++) {
    exports_sla_profiler_selection_policy_choice_t *choice = &ret->ptr[i];
    char reason[64];
    uint32_t tenths = (uint32_t)(fmax(0, fmin(points[i].latency_ms, 1e8)) * 10 + 0.5);
    char *end = write_text(write_number(reason, points[i].gpus), " GPUs, ");
    end = write_text(write_number(end, tenths / 10), ".");
    *write_text(write_number(end, tenths % 10), " ms") = 0;
    choice->candidate = points[i].candidate;
    choice->concurrency = points[i].concurrency;
    choice->meets_sla = points[i].meets_sla;
    choice->score = score(&points[i]);
    selection_policy_string_dup(&choice->reason, reason);
    selection_policy_string_dup(&choice->binding, points[i].meets_sla ? "" : prefill ? "ttft" : "itl");
  }
  free(points);
}

bool exports_sla_profiler_selection_policy_select(exports_sla_profiler_selection_policy_job_t *job,
                                                  exports_sla_profiler_selection_policy_demand_t *demand,
                                                  exports_sla_profiler_selection_policy_candidates_t *candidates,
                                                  exports_sla_profiler_selection_policy_history_t *history,
                                                  exports_sla_profiler_selection_policy_selection_t *ret,
                                                  exports_sla_profiler_selection_policy_error_t *err) {
  (void)demand;
  if (job->sla.e2e_ms.is_some) {
    err->tag = SLA_PROFILER_BASE_TYPES_ERROR_UNSUPPORTED;
    selection_policy_string_dup(&err->val.unsupported, "select-smallest ranks by TTFT and ITL, not by an end-to-end target");
    return false;
  }
  memset(ret, 0, sizeof *ret);
  rank_role(SLA_PROFILER_BASE_TYPES_ROLE_PREFILL, job->sla.ttft_ms, job, candidates, &history->measurements, &ret->prefill);
  rank_role(SLA_PROFILER_BASE_TYPES_ROLE_DECODE, job->sla.itl_ms, job, candidates, &history->measurements, &ret->decode);
  return true;
}
