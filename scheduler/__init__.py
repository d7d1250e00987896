"""Pure decisions about requests, replicas and plans: no clock, no I/O, no Ray, no vLLM."""
