package tokensource

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An assertion holds for a minute (RFC 7523, section 3: the recipient may refuse one
// whose end is unreasonably far), and is dated back a little, since clocks are set
// to the second.
const (
	assertionLifetime = time.Minute
	assertionBackdate = 5 * time.Second
)

// Claim is a claim of the assertion that we sign. Of a name that stands in it by
// itself it replaces the value; the same name twice makes a list.
type Claim struct{ Name, Value string }

// ownClaims are made anew for each assertion.
var ownClaims = []string{"jti", "iat", "nbf", "exp"}

// CheckClaim says whether a claim can be written.
func CheckClaim(name string) error {
	switch {
	case name == "":
		return errors.New("a claim has no name")
	case slices.Contains(ownClaims, name):
		return errors.New("it is made anew for each assertion")
	}
	return nil
}

// SigningAlgs are those of an assertion that is signed with a private key.
func SigningAlgs() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// SecretSigningAlgs are those of client_secret_jwt. The secret must have as many
// bytes as the hash (RFC 7518, section 3.2).
func SecretSigningAlgs() []string { return []string{"HS256", "HS384", "HS512"} }

// assertionClaims returns the claims of RFC 7523, section 3.
func assertionClaims(issuer, subject, audience string, further []Claim, now time.Time) map[string]any {
	issued := now.Add(-assertionBackdate).Unix()
	claims := map[string]any{
		"jti": rand.Text(),
		"iat": issued,
		"nbf": issued,
		"exp": now.Add(assertionLifetime - assertionBackdate).Unix(),
	}
	for name, value := range map[string]string{"iss": issuer, "sub": subject, "aud": audience} {
		if value != "" {
			claims[name] = value
		}
	}
	written := make(map[string][]string)
	for _, claim := range further {
		written[claim.Name] = append(written[claim.Name], claim.Value)
	}
	for name, values := range written {
		if len(values) == 1 {
			claims[name] = values[0]
		} else {
			claims[name] = values
		}
	}
	return claims
}

// sign makes the assertions of one request, and notes them as secrets: until they
// end, they are as good as the key. Each request has its own, for a provider takes
// none twice.
func (s *settings) sign(now time.Time) error {
	if s.grantAssertion {
		if err := s.signGrant(now); err != nil {
			return err
		}
	}
	method := clientAuths[s.clientAuth]
	if method.assertion == nil {
		return nil
	}
	assertion, err := method.assertion(s, now)
	if err != nil {
		return err
	}
	s.clientAssertion = assertion
	s.secrets = append(s.secrets, assertion)
	return nil
}

// signGrant makes the assertion of the grant jwt_bearer (RFC 7523, section 2.1).
func (s *settings) signGrant(now time.Time) error {
	key, err := parseKey(s.privateKey)
	if err != nil {
		return err
	}
	issuer := s.clientID
	if key.account != "" {
		issuer = key.account
	}
	// RFC 7523, section 3 wants a subject. Of Google's service accounts it is whom
	// they stand in for, and they mostly stand for themselves.
	var subject string
	for _, claim := range s.claims {
		if claim.Name == "iss" {
			issuer = claim.Value
		}
	}
	if key.account == "" {
		subject = issuer
	}
	if issuer == "" {
		return errors.New("client_id: missing; the assertion needs an issuer: write client_id, or claim iss")
	}
	claims := assertionClaims(issuer, subject, s.url, s.claims, now) // the endpoint itself: Google takes nothing else
	if _, written := claims["scope"]; !written && len(s.scopes) > 0 {
		claims["scope"] = strings.Join(s.scopes, s.scopeSeparator)
	}
	if s.assertion, err = s.signWith(key, claims, now); err == nil {
		s.secrets = append(s.secrets, s.assertion)
	}
	return err
}

func (s *settings) signWith(key *signingKey, claims map[string]any, now time.Time) (string, error) {
	alg, err := key.algorithm(s.signingAlg)
	if err != nil {
		return "", err
	}
	header, err := key.header(s.keyID, now)
	if err != nil {
		return "", err
	}
	return signJWT(alg, key.private, header, claims)
}

// clientClaims are of the assertion by which a client proves itself (RFC 7523,
// section 2.2). Those that are written belong to the grant where it has an
// assertion of its own, also in a request that has none, such as a refresh.
func (s *settings) clientClaims(now time.Time) map[string]any {
	further := s.claims
	if s.grantsClaims {
		further = nil
	}
	return assertionClaims(s.clientID, s.clientID, s.audience, further, now)
}

// keyAssertion is private_key_jwt's.
func (s *settings) keyAssertion(now time.Time) (string, error) {
	if s.readyAssertion != "" {
		return s.readyAssertion, nil
	}
	key, err := parseKey(s.privateKey)
	if err != nil {
		return "", err
	}
	return s.signWith(key, s.clientClaims(now), now)
}

// secretAssertion is client_secret_jwt's. Its algorithms are its own, so that no
// public key is ever taken for a secret. Where the grant has a private key,
// signing_alg and key_id are of that.
func (s *settings) secretAssertion(now time.Time) (string, error) {
	alg, id := s.signingAlg, s.keyID
	if s.privateKey != "" {
		alg, id = "", ""
	}
	alg = cmp.Or(alg, "HS256")
	least, known := map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}[alg]
	switch {
	case !known:
		return "", fmt.Errorf("signing_alg: client_secret_jwt signs with a secret: there is %s", strings.Join(SecretSigningAlgs(), ", "))
	case len(s.clientSecret) < least:
		return "", fmt.Errorf("client_secret: %s needs a secret of %d bytes at least, and this one has fewer", alg, least)
	}
	header := map[string]any{"typ": "JWT"}
	if id != "" {
		header["kid"] = id
	}
	return signJWT(alg, []byte(s.clientSecret), header, s.clientClaims(now))
}
