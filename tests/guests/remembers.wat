;; Tries to count its calls: the reason is as long as the number of calls so far.
(global $calls (mut i32) (i32.const 0))
(data (i32.const 4096) "\00\00\00\00\01\00\00\00" (i32 4112 0) "xxxxxxxx")
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
  (i32.store (i32.const 4108) (global.get $calls))
  (i32.const 4096))
