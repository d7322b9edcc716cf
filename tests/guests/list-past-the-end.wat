;; The list reaches beyond the end of the memory.
(data (i32.const 4096) "\00\00\00\00\00\00\00\00" (i32 65536 10000000))
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) (i32.const 4096))
