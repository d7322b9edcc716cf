/* my-plugin: replicas in proportion to the demand, without queues. */

#include "planner_model.h"

#define WORLD(name) planner_model_##name
#include "guarded.h"

typedef exports_sla_profiler_planner_model_deployment_plan_t plan_t;

void exports_sla_profiler_base_about_describe(exports_sla_profiler_base_about_description_t *ret) {
  memset(ret, 0, sizeof *ret);
  text(&ret->name, "my-plugin");
  text(&ret->version, "0.1.0");
  text(&ret->summary, "Replicas in proportion to the demand, without queues.");
  ret->settings.ptr = guarded_alloc(1, sizeof *ret->settings.ptr);
  ret->settings.len = 1;
  text(&ret->settings.ptr->name, "headroom");
  text(&ret->settings.ptr->default_, "0.8");
  text(&ret->settings.ptr->help, "highest load of an engine, as a fraction of what it could do, 0.05 to 1");
}

static bool refuse(exports_sla_profiler_planner_model_error_t *err, uint8_t tag, const char *message) {
  err->tag = tag;
  text(&err->val.other, message);
  return false;
}

static uint32_t apart(uint32_t a, uint32_t b) { return a > b ? a - b : b - a; }

/* The row at the lengths nearest to the job's (an `osl` of 0 does not count) that has the highest load within the limit;
   where none is within, the lowest load. -1 where nothing was measured. */
static ptrdiff_t nearest(const sla_profiler_base_types_measurements_t *m, const double *ms, uint32_t isl, uint32_t osl,
                         double limit_ms) {
  uint64_t least = UINT64_MAX;
  ptrdiff_t best = -1;
  for (int look = 0; look < 2; look++) {
    for (size_t i = 0; i < m->candidate.len; i++) {
      if (!isfinite(ms[i]) || ms[i] <= 0) continue;
      uint64_t distance = (uint64_t)apart(m->isl.ptr[i], isl) + (osl ? apart(m->osl.ptr[i], osl) : 0);
      if (look == 0 && distance < least) least = distance;
      if (look == 0 || distance != least) continue;
      if (best < 0) { best = (ptrdiff_t)i; continue; }
      bool within = ms[i] <= limit_ms, best_within = ms[best] <= limit_ms;
      uint32_t load = m->concurrency.ptr[i], best_load = m->concurrency.ptr[best];
      if (within != best_within ? within : load != best_load ? (within ? load > best_load : load < best_load) : ms[i] < ms[best])
        best = (ptrdiff_t)i;
    }
  }
  return best;
}

bool exports_sla_profiler_planner_model_plan(exports_sla_profiler_planner_model_job_t *job,
                                             exports_sla_profiler_planner_model_engines_t *engines,
                                             exports_sla_profiler_planner_model_curves_t *curves,
                                             exports_sla_profiler_planner_model_demand_t *demand, plan_t *ret,
                                             exports_sla_profiler_planner_model_error_t *err) {
  double share = number_setting(job, "headroom", 0.8, 0.05, 1);
  if (isnan(share)) return refuse(err, SLA_PROFILER_BASE_TYPES_ERROR_BAD_SETTING, "headroom must be a number from 0.05 to 1");
  const sla_profiler_base_types_sla_t *sla = &job->sla;
  double itl_limit = sla->itl_ms.is_some ? sla->itl_ms.val : INFINITY;
  ptrdiff_t first = nearest(&curves->prefill, curves->prefill.ttft_ms.target.ptr, job->workload.isl, 0, -1);
  ptrdiff_t point = nearest(&curves->decode, curves->decode.itl_ms.target.ptr, job->workload.isl, job->workload.osl, itl_limit);
  if (first < 0) return refuse(err, SLA_PROFILER_BASE_TYPES_ERROR_OTHER, "nothing was measured of the prefill engine");
  if (point < 0) return refuse(err, SLA_PROFILER_BASE_TYPES_ERROR_OTHER, "nothing was measured of the decode engine");

  double isl = job->workload.isl, osl = job->workload.osl;
  double ttft_ms = curves->prefill.ttft_ms.target.ptr[first] * isl / fmax(1, curves->prefill.isl.ptr[first]);
  double itl_ms = curves->decode.itl_ms.target.ptr[point], load = curves->decode.concurrency.ptr[point];
  /* Requests per second that one engine of each role takes. */
  double prefill_rate = share * 1e3 * fmax(1, engines->prefill.attention_dp) / ttft_ms;
  double decode_rate = share * 1e3 * load / (itl_ms * osl);

  double e2e_ms = ttft_ms + itl_ms * osl, wanted = INFINITY;
  if (demand->tag == SLA_PROFILER_BASE_TYPES_DEMAND_REQUESTS_PER_SECOND) wanted = demand->val.requests_per_second;
  if (demand->tag == SLA_PROFILER_BASE_TYPES_DEMAND_CONCURRENCY) wanted = demand->val.concurrency * 1e3 / e2e_ms; /* Little's law */

  /* The fewest GPUs that serve the demand; where none do, the most that the budget serves. */
  uint32_t total = job->hardware.total_gpus, best_p = 1, best_d = 1;
  uint32_t prefill_gpus = engines->prefill.gpus ? engines->prefill.gpus : 1, decode_gpus = engines->decode.gpus ? engines->decode.gpus : 1;
  uint32_t fewest = prefill_gpus + decode_gpus;
  double best = fmin(fmin(prefill_rate, decode_rate), wanted);
  for (uint32_t p = 1; p * prefill_gpus < total; p++) {
    for (uint32_t d = 1; p * prefill_gpus + d * decode_gpus <= total; d++) {
      uint32_t gpus = p * prefill_gpus + d * decode_gpus;
      double served = fmin(fmin(p * prefill_rate, d * decode_rate), wanted);
      if (served > best || (served >= best && gpus < fewest)) best = served, fewest = gpus, best_p = p, best_d = d;
    }
  }

  double capacity = fmin(best_p * prefill_rate, best_d * decode_rate);
  memset(ret, 0, sizeof *ret);
  ret->prefill_replicas = best_p;
  ret->decode_replicas = best_d;
  ret->capacity_requests_per_second = capacity;
  ret->prefill_requests_per_second = best_p * prefill_rate;
  ret->decode_requests_per_second = best_d * decode_rate;
  ret->decode_concurrency = (uint32_t)fmax(1, ceil(best * itl_ms * osl / 1e3 / best_d));
  ret->expected_ttft_ms = ttft_ms;
  ret->expected_itl_ms = itl_ms;
  ret->meets_sla = (!sla->ttft_ms.is_some || ttft_ms <= sla->ttft_ms.val) && itl_ms <= itl_limit &&
                   (!sla->e2e_ms.is_some || e2e_ms <= sla->e2e_ms.val);
  ret->meets_demand = isinf(wanted) || capacity >= wanted;
  char assumption[120], *end = put_number(put_text(assumption, "Engines run at "), share * 100, 0);
  put_text(end, " % of what they could do; waiting is not modelled.");
  ret->assumptions.ptr = guarded_alloc(1, sizeof *ret->assumptions.ptr);
  ret->assumptions.len = 1;
  text(ret->assumptions.ptr, assumption);
  return true;
}
