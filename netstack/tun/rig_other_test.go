//go:build !linux

package tun

func inNamespace() (code int, ok bool) { return 0, false }

// goneDevice is a device that takes nothing.
func goneDevice() *device { return new(device) }
