//go:build !linux

package socket

import "errors"

func newNotifier(*announced) (notifier, error) { return nil, errors.ErrUnsupported }
