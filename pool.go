package injecttoken

import (
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

// endGrace is how long the end of a process waits for a token request under
// way. The stock systemd unit of Caddy kills after 5 seconds.
const endGrace = 4 * time.Second

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

// newest holds the newest token of each identity at a provider that came with a
// refresh token, for as long as the process lives: where an option of a source
// changes, its new refresher goes on with the refresh token of the old one. A
// first one that is configured is spent by then.
var newest sync.Map // of identity to *tokensource.Token

// identity is what a refresh token is issued for.
type identity [sha256.Size]byte

func identityOf(name string, s *Source) identity {
	text, _ := json.Marshal([]any{name, s.Grant, s.TokenURL, s.ClientID, s.Username, s.Scopes}) // texts always can be
	return sha256.Sum256(text)
}

func (id identity) load() *tokensource.Token {
	token, _ := newest.Load(id)
	t, _ := token.(*tokensource.Token)
	return t
}

func (id identity) keep(token *tokensource.Token) {
	if token.RefreshToken != "" {
		newest.Store(id, token)
	} else {
		newest.Delete(id)
	}
}

// pooled is a refresher in the pool.
type pooled struct{ *refresher.Refresher }

// Destruct ends the refresher when no configuration has the source any more. A
// reload does not wait for it; the end of the process must.
func (p pooled) Destruct() error {
	if caddy.Exiting() {
		p.Close(endGrace)
	} else {
		go p.Close(endGrace)
	}
	return nil
}

// acquire returns the refresher of a source, made if it is new. Each call is
// to be followed by one of release.
func acquire(key poolKey, s *Source) (*refresher.Refresher, error) {
	value, _, err := refreshers.LoadOrNew(key, func() (caddy.Destructor, error) {
		id := identityOf(key.name, s)
		return pooled{refresher.New(refresher.Options{
			RefreshAt: s.RefreshAt / 100,
			Timeout:   time.Duration(s.Timeout),
			Newest:    id.load,
			Keep:      id.keep,
		})}, nil
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
