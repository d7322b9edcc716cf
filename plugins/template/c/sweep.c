/* my-plugin: doubles the load of each decode engine until the ITL target breaks. */

#include "sweep_strategy.h"

#define WORLD(name) sweep_strategy_##name
#include "guarded.h"

typedef sla_profiler_base_types_probe_t probe_t;

enum {
  CURVE_POINTS = 6, /* per axis */
  PREFILL_OSL = 5,  /* as few tokens as give a TTFT */
};

/* The question, and the answer as it grows. */
typedef struct {
  const sla_profiler_base_types_job_t *job;
  const sla_profiler_base_types_candidates_t *candidates;
  const sla_profiler_base_types_history_t *history;
  uint32_t samples;
  exports_sla_profiler_sweep_strategy_list_probe_t probes;
} sweep_t;

void exports_sla_profiler_base_about_describe(exports_sla_profiler_base_about_description_t *ret) {
  memset(ret, 0, sizeof *ret);
  text(&ret->name, "my-plugin");
  text(&ret->version, "0.1.0");
  text(&ret->summary, "Doubles the load of each decode engine until the ITL target breaks.");
  ret->settings.ptr = guarded_alloc(1, sizeof *ret->settings.ptr);
  ret->settings.len = 1;
  text(&ret->settings.ptr->name, "samples");
  text(&ret->settings.ptr->default_, "64");
  text(&ret->settings.ptr->help, "samples per point at most, 1 to 10000");
}

/* The row of a measured point; -1 where there is none. */
static ptrdiff_t row(const sweep_t *s, uint32_t id, uint32_t isl, uint32_t osl, uint32_t load) {
  const sla_profiler_base_types_measurements_t *m = &s->history->measurements;
  for (size_t i = 0; i < m->candidate.len; i++)
    if (m->candidate.ptr[i] == id && m->isl.ptr[i] == isl && m->osl.ptr[i] == osl && m->concurrency.ptr[i] == load)
      return (ptrdiff_t)i;
  return -1;
}

static bool has_failed(const sweep_t *s, uint32_t id, uint32_t isl, uint32_t osl, uint32_t load) {
  const sla_profiler_base_types_failures_t *f = &s->history->failures;
  for (size_t i = 0; i < f->candidate.len; i++) {
    if (f->candidate.ptr[i] != id) continue;
    /* A failure at concurrency 0 is the engine's own: there is no use in asking for more of it. */
    if (f->concurrency.ptr[i] == 0) return true;
    if (f->isl.ptr[i] == isl && f->osl.ptr[i] == osl && f->concurrency.ptr[i] == load) return true;
  }
  return false;
}

/* Asks for a point, unless it is known. */
static void ask(sweep_t *s, uint32_t id, uint32_t isl, uint32_t osl, uint32_t load) {
  if (row(s, id, isl, osl, load) >= 0 || has_failed(s, id, isl, osl, load)) return;
  s->probes.ptr[s->probes.len++] = (probe_t){id, isl, osl, load, 0.02, s->samples};
}

static uint32_t ranks(const sweep_t *s, uint32_t id) {
  uint32_t ranks = s->candidates->attention_dp.ptr[id];
  return ranks > 0 ? ranks : 1;
}

/* Requests that fit the engine's KV cache; unknown before it has run. */
static uint32_t room(const sweep_t *s, uint32_t id, uint32_t isl) {
  const sla_profiler_base_types_engine_facts_t *facts = &s->history->facts;
  uint32_t fit = 0;
  for (size_t i = 0; i < facts->candidate.len; i++) {
    if (facts->candidate.ptr[i] != id) continue;
    fit = facts->kv_tokens.ptr[i] / (isl + s->job->workload.osl);
    if (fit > facts->max_running.ptr[i]) fit = facts->max_running.ptr[i];
  }
  return fit > ranks(s, id) ? fit : ranks(s, id);
}

/* The first load of the series that is not measured yet, unless the series has ended. */
static void ask_doubling(sweep_t *s, uint32_t id) {
  uint32_t isl = s->job->workload.isl, osl = s->job->workload.osl;
  for (uint32_t load = ranks(s, id);; load *= 2) {
    ptrdiff_t i = row(s, id, isl, osl, load);
    if (i < 0) {
      ask(s, id, isl, osl, load);
      return;
    }
    double itl_ms = s->history->measurements.itl_ms.target.ptr[i];
    bool is_broken = s->job->sla.itl_ms.is_some && itl_ms > s->job->sla.itl_ms.val;
    if (is_broken || load > room(s, id, isl) / 2) return;
  }
}

/* The i-th of CURVE_POINTS whole numbers from `least` to `most`, both included. */
static uint32_t spaced(uint32_t least, uint32_t most, uint32_t i) {
  return least + (uint32_t)((uint64_t)(most > least ? most - least : 0) * i / (CURVE_POINTS - 1));
}

static void ask_curve(sweep_t *s, const exports_sla_profiler_sweep_strategy_curve_t *curve, bool decode) {
  uint32_t id = curve->candidate, osl = decode ? s->job->workload.osl : PREFILL_OSL;
  uint32_t longest = s->job->model.max_context > osl ? s->job->model.max_context - osl : 0;
  if (longest > curve->max_isl) longest = curve->max_isl;
  for (uint32_t i = 0, last_isl = 0; i < CURVE_POINTS; i++) {
    uint32_t isl = spaced(curve->min_isl, longest, i);
    if (isl == last_isl) continue; /* short ranges repeat */
    last_isl = isl;
    if (!decode) ask(s, id, isl, osl, ranks(s, id));
    for (uint32_t j = 0, last = 0; decode && j < CURVE_POINTS; j++) {
      uint32_t load = spaced(1, room(s, id, isl) / ranks(s, id), j);
      if (load != last) ask(s, id, isl, osl, load * ranks(s, id));
      last = load;
    }
  }
}

/* What to measure next; called again and again, with all that was measured so far, until it says `done`. */
bool exports_sla_profiler_sweep_strategy_next(exports_sla_profiler_sweep_strategy_job_t *job,
                                              exports_sla_profiler_sweep_strategy_goal_t *goal,
                                              exports_sla_profiler_sweep_strategy_candidates_t *candidates,
                                              exports_sla_profiler_sweep_strategy_history_t *history,
                                              exports_sla_profiler_sweep_strategy_step_t *ret,
                                              exports_sla_profiler_sweep_strategy_error_t *err) {
  double samples = number_setting(job, "samples", 64, 1, 10000);
  if (isnan(samples) || samples != floor(samples)) {
    err->tag = SLA_PROFILER_BASE_TYPES_ERROR_BAD_SETTING;
    text(&err->val.bad_setting, "samples must be a whole number from 1 to 10000");
    return false;
  }
  sweep_t s = {job, candidates, history, (uint32_t)samples, {0}};
  s.probes.ptr = guarded_alloc(candidates->role.len + CURVE_POINTS * CURVE_POINTS, sizeof *s.probes.ptr);
  switch (goal->tag) {
    case EXPORTS_SLA_PROFILER_SWEEP_STRATEGY_GOAL_PREFILL:
      for (uint32_t id = 0; id < candidates->role.len; id++)
        if (candidates->role.ptr[id] == SLA_PROFILER_BASE_TYPES_ROLE_PREFILL)
          ask(&s, id, job->workload.isl, PREFILL_OSL, ranks(&s, id));
      break;
    case EXPORTS_SLA_PROFILER_SWEEP_STRATEGY_GOAL_DECODE:
      for (uint32_t id = 0; id < candidates->role.len; id++)
        if (candidates->role.ptr[id] == SLA_PROFILER_BASE_TYPES_ROLE_DECODE) ask_doubling(&s, id);
      break;
    case EXPORTS_SLA_PROFILER_SWEEP_STRATEGY_GOAL_PREFILL_CURVE:
      ask_curve(&s, &goal->val.prefill_curve, false);
      break;
    case EXPORTS_SLA_PROFILER_SWEEP_STRATEGY_GOAL_DECODE_CURVE:
      ask_curve(&s, &goal->val.decode_curve, true);
      break;
  }
  if (s.probes.len > 0) {
    ret->tag = EXPORTS_SLA_PROFILER_SWEEP_STRATEGY_STEP_MEASURE;
    ret->val.measure = s.probes;
    return true;
  }
  free(s.probes.ptr);
  char reason[80];
  put_text(put_number(reason, (double)history->measurements.candidate.len, 0), " points are measured");
  ret->tag = EXPORTS_SLA_PROFILER_SWEEP_STRATEGY_STEP_DONE;
  text(&ret->val.done, reason);
  return true;
}
