package refresher

import "github.com/caddytoken/inject-token/tokensource"

// Lineage is the tokens that descend from one refresh token, each of which may
// be spent for the next. Refreshers that share a lineage ask one at a time, and
// each begins with the newest token of them all.
type Lineage struct {
	newest chan *tokensource.Token // empty while a token request is under way
}

// NewLineage returns a lineage without a token.
func NewLineage() *Lineage {
	l := &Lineage{newest: make(chan *tokensource.Token, 1)}
	l.newest <- nil
	return l
}
