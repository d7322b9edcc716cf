;; A step that is neither `measure` nor `done`.
(data (i32.const 4096) "\00\00\00\00\07\00\00\00" (i32 0 0))
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) (i32.const 4096))
