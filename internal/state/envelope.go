package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	format  = "idloc-state"
	version = 1
)

// Errors that Load and Save wrap, with the name of the file around them.
var (
	// ErrDamaged says that a file is not what was once written to it.
	ErrDamaged = errors.New("state file is damaged")
	// ErrVersion says that a file is of a version that this program cannot read.
	ErrVersion = errors.New("state file is of another version")
)

type envelope struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	Name    string          `json:"name"`
	SHA256  string          `json:"sha256"`
	Data    json.RawMessage `json:"data"`
}

// seal returns the file of a document.
func seal(name string, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	b, err := json.Marshal(envelope{Format: format, Version: version, Name: name, SHA256: hex.EncodeToString(sum[:]), Data: data})
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// open checks a file and returns its document, aliasing nothing of b.
func open(name string, b []byte) (json.RawMessage, error) {
	// The version comes first: a later one may differ in all the rest.
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrDamaged)
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if head.Format != format {
		return nil, fmt.Errorf("%w: format is %q, not %q", ErrDamaged, head.Format, format)
	}
	if head.Version != version {
		return nil, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, head.Version, version)
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if e.Name != name {
		return nil, fmt.Errorf("%w: it holds %q, not %q", ErrDamaged, e.Name, name)
	}
	var data bytes.Buffer
	if err := json.Compact(&data, e.Data); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	sum := sha256.Sum256(data.Bytes())
	if e.SHA256 != hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrDamaged)
	}
	return data.Bytes(), nil
}
