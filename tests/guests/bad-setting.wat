;; An error of its own, with a line break in it.
(data (i32.const 4096) "\01\00\00\00\00\00\00\00" (i32 4112 22) "depth must be\na number")
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) (i32.const 4096))
