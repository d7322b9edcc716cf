;; Writes the same 900 kB to the log as often as it can: each line is within the limit.
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (loop $again
    (call $log (i32.const 1) (i32.const 3145728) (i32.const 900000))
    (br $again))
  unreachable)
