;; Writes to all of its memory again and again: one instruction of much work, which nothing interrupts.
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (drop (memory.grow (i32.const 512)))
  (loop $again
    (memory.fill (i32.const 1048576) (i32.const 1)
      (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576)))
    (br $again))
  unreachable)
