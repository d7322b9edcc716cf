;; Says that there are 1,000,000 probes of 32 bytes, and has the memory to prove it.
(data (i32.const 4096) "\00\00\00\00\00\00\00\00" (i32 65536 1000000))
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (drop (memory.grow (i32.const 500)))
  (i32.const 4096))
