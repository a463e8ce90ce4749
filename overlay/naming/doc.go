// Package naming is what stands in the distributed database: name records and
// contact records, which of several counts, and what a reader remembers.
package naming
