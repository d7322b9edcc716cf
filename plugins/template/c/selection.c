/* my-plugin: most tokens per second and GPU within the SLA. */

#include "selection_policy.h"

#define WORLD(name) selection_policy_##name
#include "guarded.h"

typedef exports_sla_profiler_selection_policy_choice_t choice_t;
typedef exports_sla_profiler_selection_policy_list_choice_t choices_t;

void exports_sla_profiler_base_about_describe(exports_sla_profiler_base_about_description_t *ret) {
  memset(ret, 0, sizeof *ret);
  text(&ret->name, "my-plugin");
  text(&ret->version, "0.1.0");
  text(&ret->summary, "Most tokens per second and GPU within the SLA.");
}

static bool is_better(const choice_t *a, const choice_t *b) {
  if (a->meets_sla != b->meets_sla) return a->meets_sla;
  if (a->score != b->score) return a->score > b->score;
  return a->concurrency < b->concurrency; /* so that the order of the input does not matter */
}

static int compare(const void *left, const void *right) { return is_better(right, left) - is_better(left, right); }

/* The measured points of one role, best first, the best of each candidate. */
static void rank(uint8_t role, const sla_profiler_base_types_job_t *job, const sla_profiler_base_types_candidates_t *all,
                 const sla_profiler_base_types_measurements_t *m, choices_t *ret) {
  bool prefill = role == SLA_PROFILER_BASE_TYPES_ROLE_PREFILL;
  const double *latencies = prefill ? m->ttft_ms.target.ptr : m->itl_ms.target.ptr;
  const double *rates = prefill ? m->input_tokens_per_second_per_gpu.ptr : m->output_tokens_per_second_per_gpu.ptr;
  WORLD(option_f64_t) limit_ms = prefill ? job->sla.ttft_ms : job->sla.itl_ms;
  ret->ptr = guarded_alloc(m->candidate.len, sizeof *ret->ptr);
  for (size_t i = 0; i < m->candidate.len; i++) {
    uint32_t id = m->candidate.ptr[i];
    if (id >= all->role.len || all->role.ptr[id] != role || !isfinite(latencies[i]) || !isfinite(rates[i])) continue;
    if (m->isl.ptr[i] != job->workload.isl || (!prefill && m->osl.ptr[i] != job->workload.osl)) continue;
    bool meets_sla = !limit_ms.is_some || latencies[i] <= limit_ms.val;
    choice_t choice = {.candidate = id, .concurrency = m->concurrency.ptr[i], .meets_sla = meets_sla,
                       .score = meets_sla ? rates[i] : -latencies[i]};
    size_t place = 0;
    while (place < ret->len && ret->ptr[place].candidate != id) place++;
    if (place == ret->len) ret->len++;
    else if (!is_better(&choice, &ret->ptr[place])) continue;
    else { WORLD(string_free)(&ret->ptr[place].reason); WORLD(string_free)(&ret->ptr[place].binding); }
    char reason[80], *end = put_text(put_number(reason, latencies[i], 1), " ms, ");
    put_text(put_number(end, rates[i], 0), " tokens/s/GPU");
    text(&choice.reason, reason);
    text(&choice.binding, meets_sla ? "" : prefill ? "ttft" : "itl");
    ret->ptr[place] = choice;
  }
  qsort(ret->ptr, ret->len, sizeof *ret->ptr, compare);
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
    text(&err->val.unsupported, "my-plugin knows no end-to-end target");
    return false;
  }
  memset(ret, 0, sizeof *ret);
  rank(SLA_PROFILER_BASE_TYPES_ROLE_PREFILL, job, candidates, &history->measurements, &ret->prefill);
  rank(SLA_PROFILER_BASE_TYPES_ROLE_DECODE, job, candidates, &history->measurements, &ret->decode);
  return true;
}
