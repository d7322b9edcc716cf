;; One line of 16 MB.
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (drop (memory.grow (i32.const 300)))
  (memory.fill (i32.const 65536) (i32.const 120) (i32.const 16000000))
  (call $log (i32.const 1) (i32.const 65536) (i32.const 16000000))
  unreachable)
