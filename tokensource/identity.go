package tokensource

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Identity returns whose tokens this source obtains: a digest of what the
// provider tells its grants apart by, with every placeholder resolved, and
// without secrets. Sources of the same identity can go on with each other's
// tokens, if each Takes the other's.
//
// Of a grant that begins with a refresh token these are the token endpoint and
// the client: the refresh token that was issued last is the only one that is
// worth anything, whatever else is asked for; likewise of one that a person has
// begun. Of others it is all that is asked for.
func (s *Source) Identity() (string, error) {
	a, err := s.asked()
	if err != nil {
		return "", err
	}
	if s.grant.BeginsWithRefreshToken() || s.grant.Person {
		return digest(a.client), nil
	}
	return digest(append(a.client, a.plain...)), nil
}

// Takes says whether a token is one that this source could have obtained as it
// is configured now: by the same parameters, read from the answer in the same way,
// and by the same refresh token where one is configured. What a person has
// authorized stays authorized, whatever would be asked for now; only what is exposed
// of the answer must have been looked for.
func (s *Source) Takes(t *Token) bool {
	if !s.exposesAllOf(t) {
		return false
	}
	if s.grant.Person {
		return true
	}
	a, err := s.asked()
	if err != nil || t.asked != a.digest() {
		return false
	}
	if !s.grant.BeginsWithRefreshToken() {
		return true
	}
	current, problem := s.current(t)
	return problem == nil && current.token != "" && current.token == t.RefreshToken
}

// asked is what a source asks for, and whom.
type asked struct {
	client []string // the grant, the token endpoint and the client
	plain  []string // what else is no secret
	secret []string // parameters that may be, and what is made of the answer
}

// digest is of all of it. It is kept beside the token, and like that.
func (a *asked) digest() string { return digest(slices.Concat(a.client, a.plain, a.secret)) }

func (s *Source) asked() (*asked, error) {
	c := &s.config
	e := &expansion{resolver: &resolver{lookup: c.Lookup, other: s.identityOfOther}}
	endpoint := e.text("token_url", c.TokenURL)
	if endpoint == "" {
		endpoint = e.text("issuer", c.Issuer)
	}
	a := &asked{client: []string{c.Grant, withoutSecrets(endpoint), e.text("client_id", c.ClientID)}}
	a.plain = append(a.plain, e.text("username", c.Username))
	for _, scope := range c.Scopes {
		a.plain = append(a.plain, e.text("scope", scope))
	}
	if c.Grant == "jwt_bearer" {
		for _, claim := range c.Claims {
			a.plain = append(a.plain, claim.Name, e.text("claim "+claim.Name, claim.Value))
		}
		if a.client[2] == "" { // the key says whose it is
			account, err := accountOf(e.secret("private_key", c.PrivateKey))
			if e.err == nil {
				e.err = err
			}
			a.client[2] = account
		}
	}
	if c.SubjectToken != "" && c.SubjectToken != Caller {
		e.takesOthers = true
		a.secret = append(a.secret, subjectOf(e.secret("subject_token", c.SubjectToken)), subjectOf(e.secret("actor_token", c.ActorToken)))
		e.takesOthers = false
	}
	if c.DPoP != "" {
		a.secret = append(a.secret, "dpop", c.DPoP)
	}
	for _, p := range e.params(slices.Concat(c.Params, c.TokenRequest.Params), false) {
		list := &a.plain
		if IsSecretName(p.Name) || p.JSON != nil || c.Grant == "custom" { // a login's may be, whatever their names
			list = &a.secret
		}
		*list = append(*list, p.Name, p.Value, string(p.JSON))
	}
	for _, h := range c.TokenRequest.Header {
		if !IsSecretName(h.Name) {
			e.takesOthers = true
			a.plain = append(a.plain, h.Name, e.text("header "+h.Name, h.Value))
			e.takesOthers = false
		}
	}
	if body := e.body(c.TokenRequest.Body); body != nil {
		a.secret = append(a.secret, body.ContentType)
		for _, piece := range body.pieces {
			a.secret = append(a.secret, piece.Name, piece.Literal)
		}
	}
	response := c.Response
	response.Expose = nil // see exposesAllOf
	a.secret = append(a.secret, fmt.Sprintf("%+v %v", response, c.DefaultLifetime))
	return a, e.err
}

// subjectOf is whom a token is of. One that is a JWT is renewed by whoever gives it,
// and stays the same subject's.
func subjectOf(token string) string {
	claims := jwtClaims(strings.TrimSpace(token))
	subject := text(lookup(claims, "sub"))
	if subject == "" {
		return token
	}
	return text(lookup(claims, "iss")) + " " + subject
}

// withoutSecrets leaves out the parameters of a URL that are secret.
func withoutSecrets(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.RawQuery == "" {
		return address
	}
	query := u.Query()
	maps.DeleteFunc(query, func(name string, _ []string) bool { return IsSecretName(name) })
	u.RawQuery = query.Encode()
	return u.String()
}
