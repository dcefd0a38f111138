package tokensource

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// jwt is what a JWT says that has been verified.
type jwt struct{ header, claims map[string]any }

// hashes are those of algorithms, by the number in their names.
var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

// verified returns what a JWT says, of which the signature is right. It does not
// trust the library that has signed.
func verified(t testing.TB, token string, public any) jwt {
	t.Helper()
	got, err := verify(token, public)
	if err != nil {
		t.Fatalf("%s: %v", token, err)
	}
	return got
}

// verify reads a JWT and holds its signature against a public key, or a shared
// secret.
func verify(token string, public any) (got jwt, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return got, errors.New("this is no JWT")
	}
	for i, into := range []*map[string]any{&got.header, &got.claims} {
		text, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return got, err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return got, err
		}
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil {
		return got, err
	}
	alg, _ := got.header["alg"].(string)
	if !signedBy(alg, public, []byte(parts[0]+"."+parts[1]), signature) {
		return got, fmt.Errorf("the signature by %q is not that of a %T", alg, public)
	}
	return got, nil
}

func signedBy(alg string, public any, text, signature []byte) bool {
	if alg == "EdDSA" {
		key, ok := public.(ed25519.PublicKey)
		return ok && ed25519.Verify(key, text, signature)
	}
	if len(alg) != 5 {
		return false
	}
	hash, known := hashes[alg[2:]]
	if !known {
		return false
	}
	h := hash.New()
	h.Write(text)
	sum := h.Sum(nil)
	switch key := public.(type) {
	case *rsa.PublicKey:
		if alg[:2] == "PS" { // RFC 7518, section 3.5: the salt is as long as the hash
			return rsa.VerifyPSS(key, hash, sum, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return alg[:2] == "RS" && rsa.VerifyPKCS1v15(key, hash, sum, signature) == nil
	case *ecdsa.PublicKey:
		size := (key.Curve.Params().BitSize + 7) / 8
		curve := map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[key.Curve.Params().Name]
		if alg != curve || len(signature) != 2*size { // RFC 7518, section 3.4: both of full length, and not ASN.1
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(key, sum, r, s)
	case []byte:
		mac := hmac.New(hash.New, key)
		mac.Write(text)
		return alg[:2] == "HS" && hmac.Equal(signature, mac.Sum(nil))
	}
	return false
}

func sha256Of(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}
