;; Takes memory until it gets none, and copes.
(data (i32.const 4096) "\00\00\00\00\01\00\00\00" (i32 4112 4) "full")
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (loop $again
    (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  (i32.const 4096))
