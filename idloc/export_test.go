package idloc

import "github.com/idloc/idloc/internal/carrier"

// Carry gives a node carriers in spite of Config.Net.
func (cfg *Config) Carry(k carrier.Config) { cfg.carry = &k }
