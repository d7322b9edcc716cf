;; Loops while it is instantiated, before any function was called.
(func $spin (loop $again (br $again)))
(start $spin)
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) unreachable)
