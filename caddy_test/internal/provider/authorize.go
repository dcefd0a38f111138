package provider

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	authorizePath = "/authorize"

	// OutOfBand is the redirect_uri of providers that show a code instead.
	OutOfBand = "urn:ietf:wg:oauth:2.0:oob"
)

// personKnobs are what a test can change of how persons authorize.
type personKnobs struct {
	// Offline issues with each grant a refresh token that is taken as often as it
	// comes. (With neither this nor Rotate there are none.)
	Offline bool

	// Person decides at the authorization endpoint: an OAuth error code, or "".
	// Nil: whoever comes there agrees at once.
	Person func(*AuthorizationRequest) (code string)

	// RedirectURIs that are registered; nil: any will do.
	RedirectURIs []string

	// NoPKCE is a provider to whom its parameters are unknown, a violation.
	// Otherwise PKCE with S256 is required.
	NoPKCE bool

	// Scope that is granted, where it is another than was asked for.
	Scope string

	// Issuer is added as iss to each answer (RFC 9207).
	Issuer string

	// NewCode makes the codes. Nil: code-RANDOM.
	NewCode func() string

	// ShowCode is what a page shows of a code where there is no redirect_uri.
	// Nil: the code.
	ShowCode func(code string) string

	// CodeLifetime of a code; 0: a minute.
	CodeLifetime time.Duration

	// DeviceLifetime of a device code; 0: ten minutes.
	DeviceLifetime time.Duration

	// DeviceInterval is the seconds between polls, by the device endpoint's
	// answer; 0: one; negative: not said, so that five hold.
	DeviceInterval int

	// SlowDown is how many of the next polls are answered slow_down.
	SlowDown int

	// NoCompleteURI leaves verification_uri_complete out.
	NoCompleteURI bool

	// RevokeStatus is answered to each revocation instead; 0: the right one.
	RevokeStatus int
}

// AuthorizationRequest is a person's visit to the authorization endpoint.
type AuthorizationRequest struct {
	At    time.Time
	Query url.Values
	Code  string // that was issued, if any
}

// code is an authorization code: good for one token request.
type code struct {
	spent       bool
	expires     time.Time
	redirectURI string
	challenge   string
	family      *family
}

// AuthorizeURL is the address of the authorization endpoint.
func (p *Provider) AuthorizeURL() string { return p.URL + authorizePath }

// Authorizations returns the visits to the authorization endpoint so far.
func (p *Provider) Authorizations() []*AuthorizationRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.visits)
}

// IssuedCodes returns every authorization and device code there ever was.
func (p *Provider) IssuedCodes() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.codes {
		all = append(all, c)
	}
	for _, d := range p.devices {
		all = append(all, d.code)
	}
	return all
}

// ServeAuthorize is the authorization endpoint (RFC 6749, section 4.1.1), with
// a person who is logged in.
func (p *Provider) ServeAuthorize(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	p.mu.Lock()
	request := &AuthorizationRequest{At: time.Now(), Query: query}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.visits = append(p.visits, request)
	}()
	wrong := p.checkAuthorization(r.Method, query, err)
	person, answer := p.person.Person, url.Values{}
	p.mu.Unlock()
	if wrong != "" {
		// Nothing goes to a redirect_uri that may be another's.
		http.Error(w, wrong, http.StatusBadRequest)
		return
	}
	if query.Has("state") {
		answer.Set("state", query.Get("state"))
	}
	refused := ""
	if person != nil {
		refused = person(request)
	}
	p.mu.Lock()
	issuer, show := p.person.Issuer, p.person.ShowCode
	if refused == "" {
		request.Code = p.newCode(query)
	}
	p.mu.Unlock()
	if refused != "" {
		answer.Set("error", refused)
		answer.Set("error_description", "The person did not agree: "+refused)
	} else {
		answer.Set("code", request.Code)
	}
	if issuer != "" {
		answer.Set("iss", issuer)
	}
	land(w, r, query, answer, show)
}

// land gives the answer to the redirect_uri, or shows it to the person.
func land(w http.ResponseWriter, r *http.Request, query, answer url.Values, show func(string) string) {
	target := query.Get("redirect_uri")
	switch {
	case target == "" || target == OutOfBand:
		shown := answer.Get("code")
		if show != nil && shown != "" {
			shown = show(shown)
		}
		if shown == "" {
			shown = answer.Get("error")
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>Your code</title><p>Copy this code: <code>%s</code>\n", html.EscapeString(shown))
	case query.Get("response_mode") == "form_post":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><form method=post action=\"%s\">\n", html.EscapeString(target))
		for name := range answer {
			fmt.Fprintf(w, "<input type=hidden name=\"%s\" value=\"%s\">\n", name, html.EscapeString(answer.Get(name)))
		}
		fmt.Fprint(w, "</form>\n")
	default:
		separator := "?"
		if strings.Contains(target, "?") {
			separator = "&"
		}
		http.Redirect(w, r, target+separator+answer.Encode(), http.StatusFound)
	}
}

// checkAuthorization returns what is wrong, as a sentence for the person.
func (p *Provider) checkAuthorization(method string, query url.Values, err error) string {
	violate := func(format string, args ...any) string {
		p.Violate("authorization endpoint: "+format, args...)
		return fmt.Sprintf(format, args...)
	}
	if method != http.MethodGet || err != nil {
		return violate("%s: %v", method, err)
	}
	for name, values := range query {
		if len(values) != 1 {
			return violate("%s stands %d times", name, len(values))
		}
	}
	target, parsed := query.Get("redirect_uri"), &url.URL{}
	if query.Has("redirect_uri") {
		if parsed, err = url.Parse(target); err != nil || !parsed.IsAbs() || strings.Contains(target, "#") {
			return violate("the redirect_uri %q", target)
		}
	}
	switch {
	case query.Get("response_type") != "code":
		return violate("the response_type %q", query.Get("response_type"))
	case query.Get("client_id") != ClientID:
		return "There is no such client."
	case p.person.RedirectURIs != nil && !slices.Contains(p.person.RedirectURIs, target):
		return "This redirect_uri is not registered."
	case p.person.NoPKCE && (query.Has("code_challenge") || query.Has("code_challenge_method")):
		return violate("the documentation knows no PKCE")
	case !p.person.NoPKCE && (query.Get("code_challenge_method") != "S256" || len(query.Get("code_challenge")) != 43):
		return violate("PKCE: the method %q, a challenge of %d characters", query.Get("code_challenge_method"), len(query.Get("code_challenge")))
	case query.Has("client_secret") || query.Has("code_verifier"):
		return violate("a secret in the person's browser")
	}
	return ""
}

// newCode issues a code. The caller holds the lock.
func (p *Provider) newCode(query url.Values) string {
	text, lifetime := "code-"+rand.Text(), p.person.CodeLifetime
	if p.person.NewCode != nil {
		text = p.person.NewCode()
	}
	if lifetime == 0 {
		lifetime = time.Minute
	}
	scope := query.Get("scope")
	if p.person.Scope != "" {
		scope = p.person.Scope
	}
	p.codes[text] = &code{expires: time.Now().Add(lifetime), redirectURI: query.Get("redirect_uri"),
		challenge: query.Get("code_challenge"), family: &family{scope: scope}}
	return text
}

// SpendCode checks a code and all that belongs to it, and takes it. For
// Authorize.
func (p *Provider) SpendCode(r *TokenRequest) (refused string) {
	known := p.codes[r.Form.Get("code")]
	if known == nil {
		return "invalid_grant"
	}
	if known.spent {
		known.family.revoked = true // RFC 6749, section 4.1.2
		return "invalid_grant"
	}
	if time.Now().After(known.expires) {
		return "invalid_grant"
	}
	if got := r.Form.Get("redirect_uri"); got != known.redirectURI {
		p.Violate("the redirect_uri %q for a code of %q", got, known.redirectURI)
		return "invalid_grant"
	}
	verifier := r.Form.Get("code_verifier")
	if (known.challenge != "") != (verifier != "") {
		return p.Violate("a code_verifier of %d characters where the challenge had %d", len(verifier), len(known.challenge))
	}
	if verifier != "" {
		sum := sha256.Sum256([]byte(verifier))
		if len(verifier) < 43 || base64.RawURLEncoding.EncodeToString(sum[:]) != known.challenge {
			p.Violate("a code_verifier that is not that of the code")
			return "invalid_grant"
		}
	}
	known.spent = true
	p.family = known.family
	return ""
}
