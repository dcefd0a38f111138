package refresher

import (
	"crypto/rand"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// Lineage is the tokens that descend from one refresh token, each of which may
// be spent for the next. Refreshers that share a lineage ask one at a time, and
// each begins with the newest token of them all. Between processes a Store does
// what a lineage does within one.
type Lineage struct {
	newest chan state // empty while somebody has the turn
	node   string     // its name among all that share a storage
	claims atomic.Uint64
}

// state is the newest token of a lineage, and what is known of its storage.
type state struct {
	token   *tokensource.Token
	counter uint64

	looked  time.Time // when the storage was read last; zero: never
	shared  bool      // another node was seen at work
	unsaved bool      // token could not be stored
	claim   uint64    // of the intent by which it was obtained, while it is unsaved; 0: none
}

// NewLineage returns a lineage without a token.
func NewLineage() *Lineage {
	l := &Lineage{newest: make(chan state, 1), node: strings.ToLower(rand.Text()[:16])}
	l.newest <- state{}
	return l
}
