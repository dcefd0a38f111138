package tokensource

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// proofKey is the key to which a token is bound (RFC 9449). It is made here, goes
// with the token into the storage, and nowhere else.
type proofKey struct {
	alg     string
	private crypto.Signer
}

func newProofKey(alg string) (*proofKey, error) {
	var private crypto.Signer
	var err error
	switch alg {
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, minRSABits)
	}
	return &proofKey{alg, private}, err
}

// sign returns a proof for one request (RFC 9449, section 4.2). The access token is
// empty where the request asks for one.
func (k *proofKey) sign(method, address, accessToken, nonce string, now time.Time) (string, error) {
	target, err := proofTarget(address)
	if err != nil {
		return "", err
	}
	claims := map[string]any{
		"jti": rand.Text(),
		"htm": method,
		"htu": target,
		"iat": now.Unix(),
	}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if accessToken != "" {
		hash := sha256.Sum256([]byte(accessToken))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(hash[:])
	}
	header := map[string]any{"typ": "dpop+jwt", "jwk": jose.JSONWebKey{Key: k.private.Public()}}
	return signJWT(k.alg, k.private, header, claims)
}

// proofTarget is a URL without query and fragment, in one form: the port is left
// out where it is that of the scheme.
func proofTarget(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("the address cannot stand in a DPoP proof")
	}
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return u.Scheme + "://" + host + path, nil
}

// encode returns the key as a JWK, for the storage alone.
func (k *proofKey) encode() ([]byte, error) {
	if k == nil {
		return nil, nil
	}
	return (&jose.JSONWebKey{Key: k.private, Algorithm: k.alg}).MarshalJSON()
}

func decodeProofKey(text []byte) (*proofKey, error) {
	if len(text) == 0 {
		return nil, nil
	}
	key, err := parseJSONKey(text)
	if err != nil {
		return nil, errors.New("the token's DPoP key is not whole")
	}
	return &proofKey{key.algs[0], key.private}, nil
}

// proofKeyFor returns the key for the next token: that of the previous one, to which
// its refresh token may be bound whatever is configured by now, or a new one; nil
// where none is wanted.
func (s *Source) proofKeyFor(why purpose, previous *Token) (*proofKey, *Error) {
	alg := s.config.DPoP
	switch {
	case why == forRevocation || why == forDevice:
		return nil, nil
	case previous.proof != nil && (why == forRefresh || previous.proof.alg == alg):
		return previous.proof, nil
	case alg == "":
		return nil, nil
	}
	key, err := newProofKey(alg)
	if err != nil {
		return nil, &Error{Reason: "dpop: no key could be made"}
	}
	return key, nil
}

// IsBound says whether the token is worth nothing without a proof of its key.
func (t *Token) IsBound() bool { return t.proof != nil }

// Proof returns a DPoP proof for one request with this token, which must be bound.
// The URL may have a query, which is left out; the nonce is the server's last one,
// if it has given any.
func (t *Token) Proof(method, address, nonce string) (string, error) {
	return t.proof.sign(method, address, t.AccessToken, nonce, time.Now())
}
