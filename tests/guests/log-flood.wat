;; 100,000 lines, then a panic as the SDK's hook reports it.
(data (i32.const 4096) "flood")
(data (i32.const 4112) "panicked at lib.rs:3:\n\1b[31mindex out of bounds")
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (local $i i32)
  (loop $again
    (call $log (i32.const 1) (i32.const 4096) (i32.const 5))
    (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100000))))
  (call $log (i32.const 3) (i32.const 4112) (i32.const 47))
  unreachable)
