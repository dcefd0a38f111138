package tokensource

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// settings is a configuration with every placeholder resolved, for one
// request.
type settings struct {
	url                    string
	clientID, clientSecret string
	username, password     string
	refreshToken           string
	seed                   string // of refreshToken; see descent
	scopes                 []string
	scopeSeparator         string
	authorizeURL           string
	redirectURI            string
	authorizeParams        []Param
	clientAuth             string
	privateKey             string
	keyTexts               []string // that stood in its place
	keyID, signingAlg      string
	claims                 []Claim
	audience               string // of the client's assertion, where we sign that
	grantAssertion         bool   // whether this request has one of the grant
	grantsClaims           bool   // whether claims are of that, and not of the client
	assertion              string // the grant's, once it is signed
	readyAssertion         string // of the client, as it was written
	clientAssertion        string // the client's, once it is signed
	signsClient            bool   // whether we sign that
	subjectToken           string
	subjectTokenType       string
	actorToken             string
	actorTokenType         string
	request                Request
	params                 []Param // of every request, then of this one
	placesRefreshToken     bool
	secrets                []string
	others                 map[string]*Token // of other sources, by their names
	digest                 string            // of what the placeholders stood for, to see a change
}

// purpose is what a request to the provider is for.
type purpose int

const (
	forToken         purpose = iota // to begin a grant
	forRefresh                      // to go on with it
	forAuthorization                // to have a person begin it in a browser; sends nothing by itself
	forDevice                       // to have a person begin it (RFC 8628, section 3.1)
	forRevocation                   // to end it (RFC 7009)
)

// resolve expands every template of the configuration for one request. What is
// not written there was found by discovery.
func (s *Source) resolve(why purpose, current descent, accessToken string, found *tokenEndpoint, other func(string) (string, error)) (*settings, error) {
	c := &s.config
	refresh := why == forRefresh
	set := &settings{scopeSeparator: c.ScopeSeparator, refreshToken: current.token, seed: current.seed, clientAuth: s.clientAuth(found)}
	r := &resolver{lookup: c.Lookup, other: other}
	e := &expansion{resolver: r}

	set.clientID = e.text("client_id", c.ClientID)
	set.clientSecret = e.secret("client_secret", c.ClientSecret)
	set.username = e.text("username", c.Username)
	set.password = e.secret("password", c.Password)
	if current.token == "" && c.RefreshToken != "" {
		set.refreshToken = e.secret("refresh_token", c.RefreshToken)
		set.seed = seedOf(set.refreshToken)
	} else {
		// Not needed now, but a new one is a change worth a new try.
		_, _ = r.secret("refresh_token", c.RefreshToken)
	}
	for _, scope := range c.Scopes {
		set.scopes = append(set.scopes, e.text("scope", scope))
	}
	e.proofs(set, c, why == forToken)
	if why == forAuthorization { // a renewal does without them
		set.authorizeURL = e.address("authorize_url", c.AuthorizeURL)
		set.redirectURI = e.text("redirect_uri", c.RedirectURI)
		set.authorizeParams = e.params(c.AuthorizeParams, false)
	}
	if why != forRevocation {
		set.params = e.params(c.Params, c.Grant == "custom")
	}

	set.request = c.TokenRequest.Inherit(Request{})
	if why == forDevice || why == forRevocation {
		set.request = Request{Method: http.MethodPost, Encoding: "form", Header: c.TokenRequest.Header}
	}
	if refresh {
		r.refreshToken = set.refreshToken
		if c.RefreshRequest != nil && (accessToken != "" || !s.sendsAccessToken()) {
			r.accessToken = accessToken
			set.placesRefreshToken = c.RefreshRequest.Places(RefreshTokenPlaceholder) || set.refreshToken == ""
			set.request = c.RefreshRequest.Inherit(c.TokenRequest)
		} else { // a refresh does not inherit them
			set.request.Params = nil
			if !s.grant.BeginsWithRefreshToken() {
				set.request.Body = nil
			}
		}
	}
	set.request = e.request(set.request, c.Grant == "custom")
	var option string
	switch {
	case why == forDevice:
		option, set.url = "device_url", e.address("device_url", c.DeviceURL)
	case why == forRevocation:
		option, set.url = "revoke_url", e.address("revoke_url", c.RevokeURL)
	case set.request.URL != "":
		option, set.url = "refresh_request url", set.request.URL
	default:
		option, set.url = "token_url", e.address("token_url", c.TokenURL)
	}
	if set.url == "" && found != nil {
		set.url = found.URL
	}
	if set.signsClient {
		set.audience = e.audience(c, set.url)
	}
	if e.err != nil {
		return nil, e.err
	}
	if set.url == "" {
		return nil, fmt.Errorf("%s: neither the configuration nor the issuer's metadata have it", option)
	}
	if err := CheckURL(set.url, c.InsecureHTTP); err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	e.query(set.url)
	host := hostOf(set.url) // is told in errors, also where a placeholder stands for it
	set.digest = digest(r.resolved)
	set.secrets = append(e.secrets, slices.DeleteFunc(r.resolved, func(value string) bool {
		return strings.Contains(host, value) || slices.Contains(set.keyTexts, value)
	})...)
	return set, nil
}

// proofs resolves what a request proves itself, or whom it is for, with.
func (e *expansion) proofs(set *settings, c *Config, begins bool) {
	set.privateKey, set.keyTexts = e.key(c.PrivateKey)
	set.keyID, set.signingAlg = e.text("key_id", c.KeyID), c.SigningAlg
	for _, claim := range c.Claims {
		set.claims = append(set.claims, Claim{claim.Name, e.text("claim "+claim.Name, claim.Value)})
	}
	if set.clientAuth == "private_key_jwt" {
		set.readyAssertion = strings.TrimSpace(e.secret("client_assertion", c.ClientAssertion))
	}
	set.signsClient = clientAuths[set.clientAuth].assertion != nil && set.readyAssertion == ""
	set.grantsClaims = c.Grant == "jwt_bearer" && c.PrivateKey != ""
	set.grantAssertion = set.grantsClaims && begins
	if !begins || c.Grant != "token_exchange" {
		return
	}
	e.takesOthers = true
	defer func() { e.takesOthers = false }()
	set.subjectTokenType, set.actorTokenType = c.SubjectTokenType, c.ActorTokenType
	if c.SubjectToken != Caller {
		set.subjectToken = strings.TrimSpace(e.secret("subject_token", c.SubjectToken))
	}
	set.actorToken = strings.TrimSpace(e.secret("actor_token", c.ActorToken))
}

// audience is whom the client's assertion is for: the issuer, or else the token
// endpoint, also in a request that goes elsewhere.
func (e *expansion) audience(c *Config, url string) string {
	switch {
	case c.Issuer != "":
		return e.address("issuer", c.Issuer)
	case c.TokenURL != "":
		return e.address("token_url", c.TokenURL)
	}
	return url
}

// scrubber knows every secret of this request.
func (s *settings) scrubber() *scrubber {
	return newScrubber(append(s.secrets, s.refreshToken)...)
}

// Places says whether a placeholder stands anywhere in the request.
func (r *Request) Places(name string) bool {
	texts := []string{r.URL}
	for _, h := range r.Header {
		texts = append(texts, h.Value)
	}
	for _, p := range r.Params {
		texts = append(texts, p.Value, string(p.JSON))
	}
	if r.Body != nil {
		texts = append(texts, r.Body.Template)
	}
	return slices.Contains(Placeholders(strings.Join(texts, " ")), name)
}

func digest(values []string) string {
	h := sha256.New()
	for _, v := range values {
		_, _ = fmt.Fprintf(h, "%d:%s,", len(v), v)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
