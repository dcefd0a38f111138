package caddy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
)

// shapeSigner is a private key as a user has it in a file.
type shapeSigner struct {
	text, alg, kid string
	write          string // a line of the source beside private_key; "": none
	public         any
}

const shapeAccount = "robot@project.example.org"

// shapeSigners are the private keys, by the value of the axis key.
var shapeSigners = sync.OnceValue(func() map[string]shapeSigner {
	must := func(der []byte, err error) []byte {
		if err != nil {
			panic(err)
		}
		return der
	}
	asPEM := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	long, _ := rsa.GenerateKey(rand.Reader, 2048)
	public, ed, _ := ed25519.GenerateKey(rand.Reader)
	pkcs1 := asPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long))
	pkcs8 := asPEM("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(long)))
	return map[string]shapeSigner{
		"p256":    {asPEM("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(p256))), "ES256", "", "", p256.Public()},
		"other":   {asPEM("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(other))), "ES256", "", "", other.Public()},
		"p384":    {asPEM("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p384))), "ES384", "key 7", `key_id "key 7"`, p384.Public()},
		"rsa":     {pkcs1, "RS256", "", "", long.Public()},
		"pss":     {pkcs8, "PS384", "", "signing_alg PS384", long.Public()},
		"jwk":     {object(map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "of the key", "d": base64URL(ed.Seed()), "x": base64URL(public)}), "EdDSA", "of the key", "", public},
		"account": {object(map[string]any{"type": "service_account", "client_email": shapeAccount, "private_key_id": "a1", "private_key": pkcs8}), "RS256", "a1", "", long.Public()},
	}
})

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwt is a signed text, taken apart.
type jwt struct {
	header, claims map[string]any
	signed         string
	signature      []byte
}

// readJWT returns nil for what is none.
func readJWT(text string) *jwt {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil
	}
	var t jwt
	for i, into := range []*map[string]any{&t.header, &t.claims} {
		part, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(part, into) != nil {
			return nil
		}
	}
	t.signed = parts[0] + "." + parts[1]
	t.signature, _ = base64.RawURLEncoding.DecodeString(parts[2])
	return &t
}

// verifies says whether a JWT is signed by a key in an algorithm (RFC 7518), and says
// that itself.
func (t *jwt) verifies(alg string, key any) bool {
	if t.header["alg"] != alg {
		return false
	}
	sum256, sum384 := sha256.Sum256([]byte(t.signed)), sha512.Sum384([]byte(t.signed))
	switch key := key.(type) {
	case string: // HS256
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(t.signed))
		return hmac.Equal(mac.Sum(nil), t.signature)
	case ed25519.PublicKey:
		return ed25519.Verify(key, []byte(t.signed), t.signature)
	case *ecdsa.PublicKey:
		digest, half := sum256[:], 32
		if alg == "ES384" {
			digest, half = sum384[:], 48
		}
		return len(t.signature) == 2*half &&
			ecdsa.Verify(key, digest, new(big.Int).SetBytes(t.signature[:half]), new(big.Int).SetBytes(t.signature[half:]))
	case *rsa.PublicKey:
		if alg == "PS384" {
			return rsa.VerifyPSS(key, crypto.SHA384, sum384[:], t.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum256[:], t.signature) == nil
	}
	return false
}

// publicOf returns the key of a JWK that a DPoP proof holds, and its thumbprint's
// text; nil where it is none, or holds more than is public.
func publicOf(value any) (key any, name string) {
	jwk, _ := value.(map[string]any)
	number := func(field string) []byte {
		text, _ := jwk[field].(string)
		b, _ := base64.RawURLEncoding.DecodeString(text)
		return b
	}
	if jwk["d"] != nil {
		return nil, ""
	}
	name = object(jwk)
	switch jwk["crv"] {
	case "P-256":
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, number("x"), number("y")))
		if err != nil {
			return nil, ""
		}
		return public, name
	case "Ed25519":
		return ed25519.PublicKey(number("x")), name
	}
	return nil, ""
}
