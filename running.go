package injecttoken

import (
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// runningSource is a source that a configuration holds a reference to.
type runningSource struct {
	name      string
	config    *Source // with its provider's words
	key       poolKey
	refresher *refresher.Refresher
	transport *reverseproxy.HTTPTransport

	// Since Start.
	source *tokensource.Source
	store  *store
	log    *zap.Logger
	detach func() // nil before
}

func (s *runningSource) identity() identity { return identityOf(s.name, s.config) }

// needsPerson says whether it is by a person that its grant begins.
func (s *runningSource) needsPerson() bool {
	grant, _ := tokensource.GrantByName(s.config.Grant)
	return grant.Person
}

// authorizeCommand is what an operator runs where a person must authorize a source.
func authorizeCommand(name string) string { return "caddy token-source authorize " + name }

// runningSources are those of all configurations that are started. In a reload
// there are two for a moment; who asks gets that of the newer one, and that of the
// older one again if the newer one fails.
var runningSources = &registry{sources: make(map[string][]*runningSource)}

type registry struct {
	mu      sync.Mutex // guards sources
	sources map[string][]*runningSource
}

func (r *registry) add(s *runningSource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources[s.name] = append(r.sources[s.name], s)
}

func (r *registry) remove(s *runningSource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := slices.DeleteFunc(r.sources[s.name], func(other *runningSource) bool { return other == s })
	if r.sources[s.name] = left; len(left) == 0 {
		delete(r.sources, s.name)
	}
}

// byName returns the source of that name, or nil.
func (r *registry) byName(name string) *runningSource {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.sources[name]
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// names returns the names of all sources, sorted.
func (r *registry) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.sources))
}
