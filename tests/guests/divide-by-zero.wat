(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param $arguments i32) (result i32)
  (i32.div_u (i32.const 1) (i32.and (local.get $arguments) (i32.const 0))))
