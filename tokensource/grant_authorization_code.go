package tokensource

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/oauth2"
)

// authorizationCode is RFC 6749, section 4.1 with the PKCE of RFC 7636: a person
// says yes in a browser, and the provider gives a code for it.
var authorizationCode = Grant{
	Needs: []string{"client_id"},
	Takes: slices.Concat(clientOptions, endpointOptions, scopeOptions,
		[]string{"authorize_url", "redirect_uri", "authorize_param", "pkce", "code_field"}),
	Refreshes: true,
	Person:    true,
}

// OutOfBand is the redirect URI of providers that show the code to the person.
const OutOfBand = "urn:ietf:wg:oauth:2.0:oob"

// Authorization is one that was begun: a person is to say yes at its URL. It can
// be encoded as JSON, and holds a secret.
type Authorization struct {
	// URL is what the person opens. It holds the state.
	URL string `json:"url"`

	// State is what the answer must have; empty where there is no redirect URI
	// that could bring it back.
	State string `json:"state,omitempty"`

	// RedirectURI is the same in both requests, to the byte.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// Verifier is PKCE's code_verifier, a secret; empty with pkce off.
	Verifier string `json:"code_verifier,omitempty"`

	// Issuer is what iss of the answer must be (RFC 9207), and IssuerRequired
	// whether it must be there; empty where the issuer is not known.
	Issuer         string `json:"issuer,omitempty"`
	IssuerRequired bool   `json:"issuer_required,omitempty"`
}

// Authorize begins an authorization. The state is to be known to nobody but the
// person who begins it. It sends nothing, unless there are metadata to be fetched.
// The error is an *Error.
func (s *Source) Authorize(ctx context.Context, state string) (*Authorization, error) {
	m, problem := s.discover(ctx)
	if problem != nil {
		return nil, problem
	}
	var found *tokenEndpoint
	if m != nil {
		found = s.tokenEndpointOf(m)
	}
	set, problem := s.settle(ctx, forAuthorization, descent{}, "", found)
	if problem != nil {
		return nil, problem
	}
	endpoint := set.authorizeURL
	a := &Authorization{RedirectURI: set.redirectURI}
	if m != nil {
		if endpoint == "" {
			endpoint = m.AuthorizationEndpoint
		}
		a.Issuer, a.IssuerRequired = m.Issuer, m.IssParameterSupported
		if s.config.PKCE != "off" && len(m.CodeChallengeMethods) > 0 && !slices.Contains(m.CodeChallengeMethods, "S256") {
			return nil, &Error{Reason: "the issuer's metadata announce no PKCE by S256; if the provider can do none, write pkce off"}
		}
	}
	if endpoint == "" {
		s.metadata.Store(nil) // the next time it may be there
		return nil, &Error{Reason: "the issuer's metadata name no authorization_endpoint; write authorize_url"}
	}
	if err := CheckURL(endpoint, s.config.InsecureHTTP); err != nil {
		return nil, &Error{Reason: "authorize_url: " + err.Error(), Permanent: true}
	}
	v := url.Values{"response_type": {"code"}, "client_id": {set.clientID}}
	setScope(v, set)
	if set.redirectURI != "" {
		v.Set("redirect_uri", set.redirectURI)
	}
	if set.redirectURI != "" && set.redirectURI != OutOfBand {
		a.State = state
		v.Set("state", state)
	}
	if s.config.PKCE != "off" {
		a.Verifier = oauth2.GenerateVerifier()
		v.Set("code_challenge", oauth2.S256ChallengeFromVerifier(a.Verifier))
		v.Set("code_challenge_method", "S256")
	}
	p := &parameters{texts: v}
	p.apply(set.authorizeParams)
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, &Error{Reason: "authorize_url: this is not a URL", Permanent: true}
	}
	addQuery(u, v)
	a.URL = u.String()
	return a, nil
}

// Callback is the provider's answer to the person's browser (RFC 6749, section
// 4.1.2), or what the person has pasted.
type Callback struct {
	Code             string
	State            string
	Issuer           string // RFC 9207
	Error            string
	ErrorDescription string

	// Whole is true where the whole answer is there, and not only a code.
	Whole bool

	// Twice is true where a parameter stands there twice, which is no answer (RFC
	// 6749, section 3.1).
	Twice bool
}

// CallbackOf reads the parameters of an answer.
func CallbackOf(parameters url.Values) Callback {
	twice := false
	once := func(name string) string {
		twice = twice || len(parameters[name]) > 1
		return parameters.Get(name)
	}
	c := Callback{
		Code:             once("code"),
		State:            once("state"),
		Issuer:           once("iss"),
		Error:            once("error"),
		ErrorDescription: once("error_description"),
		Whole:            true,
	}
	c.Twice = twice
	return c
}

// Read understands what a person has pasted: the code itself, the address at which
// the browser ended, its query, or a text of which code_field says where the code
// stands.
func (s *Source) Read(pasted string) Callback {
	pasted = strings.TrimSpace(pasted)
	for part := range strings.FieldsFuncSeq(pasted, func(r rune) bool { return r == '?' || r == '#' }) {
		if callback := readQuery(part); callback.Whole {
			return callback
		}
	}
	if n, separator := s.config.CodeField, s.config.CodeSeparator; n > 0 {
		switch fields := strings.Split(pasted, separator); {
		case len(fields) >= n && len(fields) > 1:
			pasted = strings.TrimSpace(fields[n-1])
		case len(fields) > 1: // only a part of it
			pasted = ""
		}
	}
	return Callback{Code: pasted}
}

// readQuery returns an answer that is Whole where the text is one.
func readQuery(text string) Callback {
	query, err := url.ParseQuery(text)
	if err != nil || !query.Has("code") && !query.Has("error") {
		return Callback{}
	}
	return CallbackOf(query)
}

// Check says what keeps an answer from being that to this authorization, or that
// the provider has said no. The error is an *Error.
func (a *Authorization) Check(c Callback) error {
	switch {
	case c.Twice:
		return &Error{Reason: "a parameter stands in this answer twice", Permanent: true}
	case c.Whole && a.State == "" && c.State != "":
		return &Error{Reason: "this is the answer to another authorization: this one has no redirect_uri, so that no state was sent; paste the code that is shown", Permanent: true}
	case c.Whole && c.State != a.State:
		return &Error{Reason: "this is the answer to another authorization: its state is not the one that was sent", Permanent: true}
	case c.Whole && a.Issuer != "" && c.Issuer == "" && a.IssuerRequired:
		return &Error{Reason: "the answer does not say which issuer gave it (iss), although this one does so always: it may come from another provider", Permanent: true}
	case c.Whole && a.Issuer != "" && c.Issuer != "" && c.Issuer != a.Issuer:
		return &Error{Reason: "the answer comes from another issuer than the one that was asked (iss)", Permanent: true}
	case c.Error != "":
		e := &Error{Code: c.Error, Description: c.ErrorDescription}
		if !isCode(c.Error) {
			e.Code, e.Description = "", c.Error
			e.Reason = "the provider did not grant it"
		}
		newScrubber(a.Verifier, a.State, c.Code).error(e)
		return e
	case c.Code == "":
		return &Error{Reason: "there is no code in this", Permanent: true}
	case !c.Whole && (strings.HasPrefix(c.Code, "https://") || strings.HasPrefix(c.Code, "http://")):
		return &Error{Reason: "this is an address that holds no code; paste the one at which the browser has ended, or the code that is shown", Permanent: true}
	case strings.ContainsFunc(c.Code, isControl) || len(c.Code) > maxPasted:
		return &Error{Reason: "this is no code", Permanent: true}
	}
	return nil
}

// maxPasted is far more than any code.
const maxPasted = 16 << 10

// Exchange sends the code of an authorization for a token. The code cannot be
// sent again. The error is an *Error; one of which AuthorizationRequired is true
// says that this code is not, or no longer, good.
func (s *Source) Exchange(ctx context.Context, a *Authorization, code string) (*Token, error) {
	v := url.Values{"grant_type": {"authorization_code"}, "code": {code}}
	if a.RedirectURI != "" {
		v.Set("redirect_uri", a.RedirectURI)
	}
	if a.Verifier != "" {
		v.Set("code_verifier", a.Verifier)
	}
	token, err := s.request(ctx, &call{values: v, secrets: []string{code, a.Verifier, a.State}, previous: new(Token)})
	if err != nil && err.Code == "invalid_grant" {
		err.AuthorizationRequired = true
	}
	return s.outcome(token, err)
}

// CheckCodeField says what is wrong with a code_field.
func CheckCodeField(n int, separator string) error {
	if n < 1 || n > 99 || separator == "" {
		return fmt.Errorf("write code_field N SEPARATOR, the number of the field from 1, and what stands between fields")
	}
	return nil
}
