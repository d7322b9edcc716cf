;; A module of its own: 1 GiB of memory from the start.
(module
  (memory (export "memory") 16384)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "sla-profiler:base/about@0.1.0#describe") (result i32) unreachable)
  (func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) unreachable))
