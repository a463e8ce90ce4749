//go:build !linux

package main

import "context"

type lab struct{}

func inNamespace() bool                    { return false }
func enterNamespace(context.Context) error { return errNoNamespace }
func newLab() (*lab, error)                { return nil, errNoNamespace }
func (*lab) close()                        {}
func (*lab) measure(context.Context, string, cell, uint64) (float64, error) {
	return 0, errNoNamespace
}
func (*lab) together(context.Context, []string, cell, uint64) ([]float64, error) {
	return nil, errNoNamespace
}
func setCongestion(uintptr, string) error { return errNoNamespace }
