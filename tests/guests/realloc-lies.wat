;; A module of its own: its allocator answers with an address beyond the memory.
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x7ffffff0))
  (data (i32.const 1024) "guest0.0.1Test.")
  (data (i32.const 1088) (i32 1024 5 1029 5 1034 5 0 0))
  (func (export "sla-profiler:base/about@0.1.0#describe") (result i32) (i32.const 1088))
  (func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) unreachable))
