// Package tokensource obtains a token from an OAuth 2.0 provider.
//
// A [Source] is one grant (RFC 6749) together with its provider's dialect:
// everything in which that provider deviates from the RFC. It sends one token
// request when it is asked and reads the answer leniently. It keeps no token and
// starts no goroutine; see package refresher for that.
//
// A grant is a file grant_NAME.go that says which parameters are sent, and how a
// person begins it where that takes one. discovery.go fetches what a provider
// publishes of itself, and revocation.go gives tokens back. settings.go resolves the secrets, dialect.go sends it all as the provider
// wants it, answer.go reads what comes back, and scrub.go takes the secrets
// out of what the provider says. No quirk of a provider is more than data in a
// [Config].
package tokensource

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
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

	// Issuer is whose metadata say what is not written here (RFC 8414, OpenID
	// Connect Discovery). They are fetched when they are needed.
	Issuer string

	// AuthorizeURL, DeviceURL and RevokeURL are the endpoints of RFC 6749, section
	// 3.1, RFC 8628, section 3.1, and RFC 7009.
	AuthorizeURL, DeviceURL, RevokeURL string

	// RedirectURI is where the provider sends the person's browser with the code.
	// Empty: it shows the code itself.
	RedirectURI string

	// AuthorizeParams are further parameters of the authorization URL.
	AuthorizeParams []Param

	// PKCE is "off" where the provider can do none. Empty: S256.
	PKCE string

	// CodeField says which field of a pasted text is the code, counted from 1, and
	// CodeSeparator what stands between fields. 0: the text is the code.
	CodeField     int
	CodeSeparator string

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

	// Timeout bounds one token request. 0: DefaultTimeout.
	Timeout time.Duration

	// InsecureHTTP allows a plain-http URL to a host that is not loopback.
	InsecureHTTP bool

	// Transport sends the requests. Nil: http.DefaultTransport.
	Transport http.RoundTripper

	// Lookup resolves placeholders. Nil: there are none.
	Lookup Lookup

	// UserAgent is sent with each token request.
	UserAgent string
}

// DefaultTimeout bounds a token request where the configuration does not.
const DefaultTimeout = 10 * time.Second

// A Source obtains tokens. It is safe for concurrent use.
type Source struct {
	config Config
	grant  Grant

	metadata atomic.Pointer[metadata] // fetched last; nil: none, or not to be relied on
	doubtful atomic.Bool              // what was found before is to be looked for again
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
	if config.Timeout == 0 {
		config.Timeout = DefaultTimeout
	}
	if config.Transport == nil {
		config.Transport = http.DefaultTransport
	}
	return &Source{config: config, grant: grant}, nil
}

// Obtain sends a token request and returns the token that was issued. The
// refresh token of the previous token is used where there is one; where the
// provider does not take it any more, a second request is sent with the grant
// itself if that needs no person. Previous may be nil. An error is always an
// *Error.
//
// The context bounds both requests. It must not descend from the request of a
// caller: a rotated refresh token would be lost when that one leaves.
func (s *Source) Obtain(ctx context.Context, previous *Token) (*Token, error) {
	if previous == nil {
		previous = new(Token)
	}
	current, err := s.current(previous)
	if err != nil {
		return nil, err
	}
	if s.grant.BeginsWithRefreshToken() {
		return s.outcome(s.send(ctx, forRefresh, current, previous))
	}
	if s.grant.Person {
		return s.outcome(s.goOn(ctx, current, previous))
	}
	spent := false
	if current.token != "" && s.refreshes() {
		token, err := s.send(ctx, forRefresh, current, previous)
		if err == nil || !refused(err) {
			return s.outcome(token, err)
		}
		spent = true
		previous = previous.WithoutRefreshToken()
	}
	token, err := s.send(ctx, forToken, current, previous)
	if err != nil {
		err.RefreshTokenRefused = spent
	}
	return s.outcome(token, err)
}

// goOn renews what a person has authorized, for as long as the provider wants.
func (s *Source) goOn(ctx context.Context, current descent, previous *Token) (*Token, *Error) {
	if current.token == "" {
		return nil, &Error{
			Code:                  "authorization_required",
			Reason:                "a person must authorize this source",
			Permanent:             true,
			AuthorizationRequired: true,
		}
	}
	token, err := s.send(ctx, forRefresh, current, previous)
	if err != nil && err.Code == "invalid_grant" && err.Permanent {
		err.AuthorizationRequired = true
	}
	return token, err
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

// current returns the refresh token to send: the newest that came by the
// configured one, or the configured one itself, where the token is empty. One
// that is new in the configuration is used at once, and a spent one never again.
func (s *Source) current(previous *Token) (descent, *Error) {
	descents := previous.descents
	if len(descents) == 0 && previous.RefreshToken != "" {
		descents = descend(nil, "", previous.RefreshToken)
	}
	r := resolver{lookup: s.config.Lookup}
	var seed string
	configured, err := r.secret("refresh_token", s.config.RefreshToken)
	switch {
	case err != nil && previous.RefreshToken != "" && previous.template == seedOf(s.config.RefreshToken):
		// It is gone, and not needed any more.
		return descents[len(descents)-1], nil
	case err != nil:
		return descent{}, &Error{Reason: err.Error(), Permanent: true, Changed: func() bool {
			_, err := r.secret("refresh_token", s.config.RefreshToken)
			return err == nil
		}}
	case configured != "":
		seed = seedOf(configured)
	}
	for _, d := range descents {
		if d.seed == seed {
			return d, nil
		}
	}
	return descent{seed: seed}, nil
}

func seedOf(refreshToken string) string { return digest([]string{refreshToken}) }

// refused says that the provider answered and did not take what was sent, in
// whatever words: asking with the grant itself may help. A client that is not
// known would not be known then either.
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

// send makes one token request by which a grant begins, or goes on.
func (s *Source) send(ctx context.Context, why purpose, current descent, previous *Token) (*Token, *Error) {
	return s.request(ctx, &call{purpose: why, current: current, previous: previous})
}

// call is one request to the provider.
type call struct {
	purpose  purpose
	current  descent
	previous *Token // never nil

	// values are its parameters where the grant by itself has others, or none.
	values url.Values

	// url is the endpoint, of a purpose other than a token, where discovery found it.
	url string

	// secrets are those of its parameters.
	secrets []string

	// read reads an answer that is to hold no token; nil: it is to hold one.
	read func(*http.Response) *Error
}

// request sends one request, and returns the token where it was for one.
func (s *Source) request(ctx context.Context, a *call) (*Token, *Error) {
	found, problem := s.found(ctx, a)
	if problem != nil {
		return nil, problem
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	set, err := s.resolve(a.purpose, a.current, found)
	if err != nil {
		s.missed(found)
		return nil, &Error{Reason: err.Error(), Permanent: true, Changed: s.changed(a, found, "")}
	}
	previous := a.previous
	set.secrets = append(append(set.secrets, a.secrets...), previous.AccessToken)
	exchange := &exchange{
		settings: set, config: &s.config, grant: s.config.Grant, refresh: a.purpose == forRefresh,
		bare: a.purpose == forDevice || a.purpose == forRevocation, read: a.read, permit: permitOf(ctx),
	}
	conf := clientcredentials.Config{
		ClientID:       set.clientID,
		ClientSecret:   set.clientSecret,
		TokenURL:       set.url,
		AuthStyle:      authStyle(set.clientAuth),
		EndpointParams: s.values(set, a),
	}
	client := &http.Client{Transport: exchange}
	_, failed := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	answer, problem := exchange.result(failed)
	if problem != nil {
		s.doubt(problem)
		login := s.judge(problem)
		set.secrets = append(set.secrets, problem.issued...)
		set.scrubber().error(problem)
		problem.issued = nil
		if problem.Permanent || login {
			problem.Changed = s.changed(a, found, set.digest)
		}
		return nil, problem
	}
	if a.read != nil {
		return nil, nil
	}
	token := s.token(exchange, answer, set, previous)
	token.found = found
	return token, nil
}

// found returns what discovery has to say of where a request goes, and how.
func (s *Source) found(ctx context.Context, a *call) (*tokenEndpoint, *Error) {
	if a.purpose != forDevice {
		found, problem := s.discoverToken(ctx, a.previous)
		if problem == nil && a.purpose == forRevocation {
			found = &tokenEndpoint{URL: a.url, ClientAuth: s.clientAuth(found)}
		}
		return found, problem
	}
	m, problem := s.discover(ctx)
	if m == nil {
		if s.config.DeviceURL != "" { // it is known where, and a default how
			problem = nil
		}
		return nil, problem
	}
	return &tokenEndpoint{URL: m.DeviceAuthorizationEndpoint, ClientAuth: s.tokenEndpointOf(m).ClientAuth}, nil
}

func (s *Source) values(set *settings, a *call) map[string][]string {
	switch {
	case a.values != nil:
		return a.values
	case a.purpose == forDevice:
		v := url.Values{}
		setScope(v, set)
		return v
	case a.purpose == forRefresh && s.config.Grant != "custom":
		return refreshValues(set, s.config.Grant, set.refreshToken)
	}
	return s.grant.values(set)
}

func (s *Source) token(x *exchange, a *answer, set *settings, previous *Token) *Token {
	var asked string
	if a, err := s.asked(); err == nil {
		asked = a.digest()
	}
	t := &Token{
		AccessToken:  a.accessToken,
		RefreshToken: a.refreshToken,
		Issued:       x.answered,
		Lifetime:     a.lifetime,
		asked:        asked,
		template:     seedOf(s.config.RefreshToken),
		Scopes:       a.scopes,
		descents:     previous.descents,
	}
	if t.Scopes == nil { // RFC 6749, section 5.1: it is what was asked for, or what it was before
		t.Scopes = previous.Scopes
		if !x.refresh {
			t.Scopes = set.scopes
		}
	}
	if t.RefreshToken == "" && x.refresh {
		t.RefreshToken = set.refreshToken // RFC 6749, section 6: the old one stays
	}
	if t.RefreshToken != "" {
		t.descents = descend(t.descents, set.seed, t.RefreshToken)
	}
	known := newScrubber(append(set.secrets, t.AccessToken, t.RefreshToken, set.refreshToken)...)
	t.Scopes = slices.DeleteFunc(slices.Clone(t.Scopes), func(scope string) bool { return known.scrub(scope) != scope })
	t.said = t.Lifetime > 0
	if !t.said && previous.said && t.AccessToken == previous.AccessToken && t.Issued.Before(previous.Issued.Add(previous.Lifetime)) {
		// Some providers issue the same token until it ends, and say at its end
		// that it has no time left.
		t.Issued, t.Lifetime, t.said = previous.Issued, previous.Lifetime, true
	}
	if t.Lifetime == 0 {
		t.Lifetime = s.config.DefaultLifetime
	}
	return t
}

// judge decides what the RFC leaves open: a login with a person's password
// that was refused without one of the RFC's codes is left alone for long. It
// returns whether this is one. A page that is not there says nothing of it.
func (s *Source) judge(e *Error) bool {
	login := s.config.Grant == "password" || s.config.Grant == "custom"
	if !login || e.Permanent || e.RetryAfter != 0 || !refused(e) {
		return false
	}
	switch e.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusMisdirectedRequest:
		return false
	}
	e.RetryAfter = loginRetry
	return true
}

// changed returns what Error.Changed asks: whether the same request would say
// something else now.
func (s *Source) changed(a *call, found *tokenEndpoint, digest string) func() bool {
	return func() bool {
		set, err := s.resolve(a.purpose, a.current, found)
		return err == nil && set.digest != digest
	}
}

// Ready says what keeps a token request from being sent, as far as that can be told
// without one: secrets that cannot be read, or metadata that cannot be had. The
// error is an *Error.
func (s *Source) Ready(ctx context.Context) error {
	why := forToken
	switch s.config.Grant {
	case "authorization_code":
		_, err := s.Authorize(ctx, "")
		return err
	case "device_code":
		why = forDevice
	}
	found, problem := s.found(ctx, &call{purpose: why, previous: new(Token)})
	if problem != nil {
		return problem
	}
	if _, err := s.resolve(why, descent{}, found); err != nil {
		return &Error{Reason: err.Error(), Permanent: true}
	}
	return nil
}
