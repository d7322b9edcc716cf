;; A table that is too large from the start.
(table 10000000 funcref)
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) unreachable)
