;; A good sweep strategy: enough is known.
(data (i32.const 4096) "\00\00\00\00\01\00\00\00" (i32 4112 6) "enough")
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) (i32.const 4096))
