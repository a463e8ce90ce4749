// Package upkeep does a member's periodic work, every twenty seconds: it drops what
// belongs to those who are no members any more, compares revocation lists with a few
// others, renews its own membership, and looks for the servers of the database that it
// should be connected to (DESIGN §8). Connections are kept up by package mesh.
package upkeep
