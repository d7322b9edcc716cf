;; Has a hundred thousand settings.
(data (i32.const 4096) (i32 1024 5 1029 5 1034 5 1048576 100000))
(func (export "sla-profiler:base/about@0.1.0#describe") (result i32) (i32.const 4096))
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) unreachable)
