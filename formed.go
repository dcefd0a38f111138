package injecttoken

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// formed is the header values of one token: made once, they cost a request
// nothing. The slices are shared between requests and never written to.
type formed struct {
	token  *tokensource.Token
	others []*tokensource.Token // of injection.sources
	looked time.Time            // when files and variables were read
	values [][]string
	hidden hidden
	err    error // an *unformed, in the place of values
}

// lookAgain is how soon what files and variables hold is looked at again.
const lookAgain = time.Second

// formedCache holds what was formed of the newest token of a use.
type formedCache struct {
	newest atomic.Pointer[formed]
	mu     sync.Mutex // held by who looks at files again; nobody waits for it
}

// form returns what stands in the places of a token. Where that holds the token of
// another source, that one's first is waited for.
func (t *Transport) form(ctx context.Context, u *use, token *tokensource.Token, began time.Time) (*formed, error) {
	f := u.formed.newest.Load()
	if f != nil && f.token == token && (!t.injection.changes && len(t.injection.sources) == 0 || u.isNewest(f)) {
		if !t.injection.changes || time.Since(f.looked) < lookAgain {
			return f, f.err
		}
		if !u.formed.mu.TryLock() {
			return f, f.err
		}
		defer u.formed.mu.Unlock()
	}
	others, err := t.otherTokens(ctx, u, began)
	if err != nil {
		return nil, err
	}
	next := t.injection.form(u.name, token, others)
	if next.err != nil && (f == nil || f.err == nil || f.err.Error() != next.err.Error()) {
		t.log.Error("requests are not sent, for what is to be injected cannot be had", zap.String("source", u.name), zap.Error(next.err))
	}
	u.formed.newest.Store(next)
	return next, next.err
}

// isNewest says whether other sources still have the tokens that were formed.
func (u *use) isNewest(f *formed) bool {
	for i, other := range u.others {
		if other.refresher.Current() != f.others[i] {
			return false
		}
	}
	return true
}

// otherTokens returns the tokens of the sources that formats name.
func (t *Transport) otherTokens(ctx context.Context, u *use, began time.Time) ([]*tokensource.Token, error) {
	if len(u.others) == 0 {
		return nil, nil
	}
	ctx, cancel := t.patience(ctx, began)
	defer cancel()
	tokens := make([]*tokensource.Token, len(u.others))
	for i, other := range u.others {
		token, err := other.refresher.Token(ctx)
		if next := other.successor(); err != nil && next != nil {
			token, err = next.refresher.Token(ctx)
		}
		if err != nil {
			return nil, &ofOther{other.name, err}
		}
		tokens[i] = token
	}
	return tokens, nil
}

// ofOther says that it is another source that has no token.
type ofOther struct {
	name string
	error
}

func (o *ofOther) Unwrap() error { return o.error }

// form makes the values of one token.
func (in *injection) form(source string, token *tokensource.Token, others []*tokensource.Token) *formed {
	f := &formed{token: token, others: others, looked: time.Now()}
	g := &forming{token: token, source: source, others: make(map[string]*tokensource.Token), secrets: []string{token.AccessToken}}
	for i, name := range in.sources {
		g.others[name] = others[i]
	}
	for i := range in.formats {
		value, err := g.form(&in.formats[i])
		if err != nil {
			return &formed{token: token, others: others, looked: f.looked, err: err}
		}
		f.values = append(f.values, []string{value})
	}
	slices.Sort(g.secrets)
	f.hidden = newHidden(slices.Compact(g.secrets)...)
	return f
}
