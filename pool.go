package injecttoken

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// refreshers holds the refresher of every source of every configuration that
// is loaded, by name and fingerprint: an unchanged source keeps its own across
// a reload, and with it its token.
//
// An app takes a reference in Provision and gives it back in Cleanup, not in
// Stop: requests that are being drained still need tokens.
var refreshers = caddy.NewUsagePool()

// poolKey is what makes two sources the same.
type poolKey struct{ name, fingerprint string }

func keyOf(name string, s *Source) (poolKey, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return poolKey{}, err
	}
	sum := sha256.Sum256(text)
	return poolKey{name, base64.RawURLEncoding.EncodeToString(sum[:])}, nil
}

// keyOf is that of a source together with those whose tokens it sends: where one of
// them becomes another's, so does it.
func (a *App) keyOf(name string) (poolKey, error) {
	key, err := keyOf(name, a.filled[name])
	for _, other := range a.filled[name].others() {
		if err != nil {
			return key, err
		}
		var of poolKey
		of, err = a.keyOf(other)
		key.fingerprint += " " + of.name + " " + of.fingerprint
	}
	return key, err
}

// lineages holds the refresh tokens of each identity whose grant begins with
// one, or with a person, for as long as the process lives: where an option of such a source
// changes, its new refresher goes on with the refresh token of the old one. The
// one that is configured is spent by then.
var lineages sync.Map // of identity to *refresher.Lineage

// identity is whose tokens they are. Other options, such as a scope, do not
// make it another's.
type identity struct {
	name, grant, endpoint, clientID string
	perCaller                       bool // there is a token for each caller
}

func identityOf(name string, s *Source) identity {
	return identity{name, s.Grant, cmp.Or(s.TokenURL, s.Issuer), s.ClientID, s.takesCallers()}
}

// pooled is a refresher in the pool.
type pooled struct {
	*refresher.Refresher
	patience time.Duration // with a token request under way
}

// Destruct ends the refresher when no configuration has the source any more.
// Its token request may still get its answer, with a rotated refresh token.
func (p pooled) Destruct() error {
	closing.Go(func() { p.Close(p.patience) })
	return nil
}

// closing are the refreshers that wait for the end of their token request.
var closing sync.WaitGroup

// endGrace is how long the end of the process waits for all of them. The stock
// systemd unit of Caddy kills after 5 seconds.
const endGrace = 4 * time.Second

// exitBegan is when the process began to end; zero: it has not.
var exitBegan struct {
	once sync.Once
	at   time.Time
}

// untilExit is how much of endGrace is left.
func untilExit() time.Duration {
	exitBegan.once.Do(func() { exitBegan.at = time.Now() })
	return max(0, endGrace-time.Since(exitBegan.at))
}

func awaitTokenRequests(context.Context) {
	closed := make(chan struct{})
	go func() {
		closing.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(untilExit()):
	}
}

// acquire returns the refresher of a source, made if it is new. Each call is
// to be followed by one of release.
func acquire(key poolKey, s *Source) (*refresher.Refresher, error) {
	// A refresh that is refused, and then the grant itself.
	timeout := 2 * cmp.Or(time.Duration(s.Timeout), tokensource.DefaultTimeout)
	grant, _ := tokensource.GrantByName(s.Grant)
	options := refresher.Options{RefreshAt: s.RefreshAt / 100, Timeout: timeout, OneUse: s.RefreshToken != "" || grant.Person, Person: grant.Person, PerSubject: s.takesCallers()}
	if options.OneUse {
		lineage, _ := lineages.LoadOrStore(identityOf(key.name, s), refresher.NewLineage())
		options.Lineage = lineage.(*refresher.Lineage)
	}
	value, _, err := refreshers.LoadOrNew(key, func() (caddy.Destructor, error) {
		return pooled{refresher.New(options), timeout}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(pooled).Refresher, nil
}

func release(key poolKey) error {
	_, err := refreshers.Delete(key)
	return err
}
