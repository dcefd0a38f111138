// Package tokensource obtains a token from an OAuth 2.0 provider.
//
// A [Source] is one grant (RFC 6749) together with its provider's dialect:
// everything in which that provider deviates from the RFC. It sends one token
// request when it is asked and reads the answer leniently. It keeps nothing,
// caches nothing and starts no goroutine; see package refresher for that.
//
// A grant is a file grant_NAME.go that says which parameters are sent.
// settings.go resolves the secrets, dialect.go sends it all as the provider
// wants it, answer.go reads what comes back, and scrub.go takes the secrets
// out of what the provider says. No quirk of a provider is more than data in a
// [Config].
package tokensource

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// Config describes a token source. Every text may hold placeholders, which are
// resolved by Lookup at each token request, so that a secret that is rotated
// on disk is used by the next request.
type Config struct {
	// Grant is one of GrantNames.
	Grant string

	// TokenURL is the token endpoint (RFC 6749, section 3.2).
	TokenURL string

	// ClientID and ClientSecret identify the client.
	ClientID, ClientSecret string

	// ClientAuth is one of ClientAuthNames. Empty: client_secret_basic with a
	// secret, none without.
	ClientAuth string

	// RawBasic leaves out the form-encoding of RFC 6749, section 2.3.1 in
	// client_secret_basic, for providers that do not decode it.
	RawBasic bool

	// Username and Password are the resource owner's (RFC 6749, section 4.3).
	Username, Password string

	// RefreshToken is the first one of the grant refresh_token.
	RefreshToken string

	// Scopes limit what is asked for, joined by ScopeSeparator; empty: a space.
	Scopes         []string
	ScopeSeparator string

	// Params are parameters of every token request.
	Params []Param

	// TokenRequest and RefreshRequest say how the requests deviate from a POST
	// of a form. What RefreshRequest does not say is as in TokenRequest; nil
	// means that nothing was written.
	TokenRequest   Request
	RefreshRequest *Request

	// Response says where the answer deviates.
	Response Response

	// DefaultLifetime holds where the answer says none. 0: not known.
	DefaultLifetime time.Duration

	// InsecureHTTP allows a plain-http URL to a host that is not loopback.
	InsecureHTTP bool

	// Transport sends the requests. Nil: http.DefaultTransport.
	Transport http.RoundTripper

	// Lookup resolves placeholders. Nil: there are none.
	Lookup Lookup

	// UserAgent is sent with each token request.
	UserAgent string
}

// A Source obtains tokens. It is safe for concurrent use.
type Source struct {
	config Config
	grant  Grant
}

// New returns a source for a valid configuration; see Config's fields and
// Grant for what that means. It sends nothing.
func New(config Config) (*Source, error) {
	grant, ok := grants[config.Grant]
	if !ok {
		return nil, errors.New("tokensource: unknown grant")
	}
	if config.ScopeSeparator == "" {
		config.ScopeSeparator = " "
	}
	if config.ClientAuth == "" {
		config.ClientAuth = defaultClientAuth(&config)
	}
	if config.Transport == nil {
		config.Transport = http.DefaultTransport
	}
	return &Source{config: config, grant: grant}, nil
}

// Obtain sends a token request and returns the token that was issued. The
// refresh token of the previous token is used where there is one; where the
// provider does not take it any more, the grant itself takes over if that
// needs no person. Previous may be nil. An error is always an *Error.
//
// The context bounds the request. It must not descend from the request of a
// caller: a rotated refresh token would be lost when that one leaves.
func (s *Source) Obtain(ctx context.Context, previous *Token) (*Token, error) {
	current := s.currentRefreshToken(previous)
	if s.grant.values == nil {
		return s.outcome(s.send(ctx, true, current))
	}
	if current.token != "" && s.refreshes() {
		token, err := s.send(ctx, true, current)
		if err == nil || !refused(err) {
			return s.outcome(token, err)
		}
	}
	return s.outcome(s.send(ctx, false, current))
}

// outcome keeps a nil *Error from becoming an error that is not nil.
func (*Source) outcome(token *Token, err *Error) (*Token, error) {
	if err != nil {
		return nil, err
	}
	return token, nil
}

// refreshes says whether a refresh token in an answer is of use.
func (s *Source) refreshes() bool {
	return s.grant.Refreshes || s.config.RefreshRequest != nil
}

// descendant is a refresh token that the provider issued, with a digest of the
// configured one from which it descends. Without a token it stands for the
// configured one itself.
type descendant struct {
	token, seed string
	access      string // that came with it, not to be shown
}

// currentRefreshToken returns the refresh token to send: the newest that the
// provider issued, unless the operator has configured another first one since.
// That one is used at once, and a spent one never again.
func (s *Source) currentRefreshToken(previous *Token) descendant {
	if previous == nil {
		return descendant{}
	}
	r := resolver{lookup: s.config.Lookup}
	configured, err := r.text("refresh_token", s.config.RefreshToken)
	isNew := err == nil && configured != "" && seedOf(configured) != previous.seed
	if isNew || previous.RefreshToken == "" {
		return descendant{access: previous.AccessToken}
	}
	return descendant{previous.RefreshToken, previous.seed, previous.AccessToken}
}

func seedOf(refreshToken string) string { return digest([]string{refreshToken}) }

// refused says that the provider answered and did not take the refresh token,
// in whatever words: asking with the grant itself may help. A client that is
// not known would not be known then either.
func refused(e *Error) bool {
	switch {
	case e.Code == "invalid_client":
		return false
	case e.answered:
		return true
	case e.Permanent:
		return e.StatusCode != 0
	case e.StatusCode == http.StatusRequestTimeout, e.StatusCode == http.StatusTooEarly,
		e.StatusCode == http.StatusTooManyRequests:
		return false
	}
	said := e.Code != "" || e.Description != ""
	return e.StatusCode >= 400 && e.StatusCode < 500 || e.StatusCode/100 == 2 && said
}

// loginRetry is how long a login is left alone that was refused in words which
// do not tell a wrong password from a passing trouble: a few tries in a row
// lock an account.
const loginRetry = 10 * time.Minute

// send makes one token request.
func (s *Source) send(ctx context.Context, refresh bool, current descendant) (*Token, *Error) {
	set, err := s.resolve(refresh, current)
	if err != nil {
		return nil, &Error{Reason: err.Error(), Permanent: true, Changed: s.changed(refresh, current, "")}
	}
	exchange := &exchange{settings: set, config: &s.config, grant: s.config.Grant, refresh: refresh}
	conf := clientcredentials.Config{
		ClientID:       set.clientID,
		ClientSecret:   set.clientSecret,
		TokenURL:       set.url,
		AuthStyle:      authStyle(s.config.ClientAuth),
		EndpointParams: s.values(set, refresh),
	}
	client := &http.Client{Transport: exchange}
	_, failed := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	answer, problem := exchange.result(failed)
	if problem != nil {
		s.judge(problem)
		set.secrets = append(set.secrets, problem.issued...)
		set.scrubber().error(problem)
		problem.issued = nil
		problem.Changed = s.changed(refresh, current, set.digest)
		return nil, problem
	}
	return s.token(exchange, answer, set), nil
}

func (s *Source) values(set *settings, refresh bool) map[string][]string {
	if refresh && s.config.Grant != "custom" {
		return refreshValues(set, s.config.Grant, set.refreshToken)
	}
	return s.grant.values(set)
}

func (s *Source) token(x *exchange, a *answer, set *settings) *Token {
	t := &Token{
		AccessToken:  a.accessToken,
		RefreshToken: a.refreshToken,
		Issued:       x.answered,
		Lifetime:     a.lifetime,
		seed:         set.seed,
	}
	if t.RefreshToken == "" && x.refresh {
		t.RefreshToken = set.refreshToken // RFC 6749, section 6: the old one stays
	}
	if t.Lifetime == 0 {
		t.Lifetime = s.config.DefaultLifetime
	}
	return t
}

// judge decides what the RFC leaves open: a login with a person's password
// that was refused without one of the RFC's codes is left alone for long.
func (s *Source) judge(e *Error) {
	if s.config.Grant != "password" && s.config.Grant != "custom" {
		return
	}
	if !e.Permanent && e.RetryAfter == 0 && refused(e) {
		e.RetryAfter = loginRetry
	}
}

// changed returns what Error.Changed asks: whether the same request would say
// something else now.
func (s *Source) changed(refresh bool, current descendant, digest string) func() bool {
	return func() bool {
		set, err := s.resolve(refresh, current)
		return err == nil && set.digest != digest
	}
}
