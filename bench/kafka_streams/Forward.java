import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Kafka Streams doing the forwarder's work: decode an order, re-key it by its customer, encode it in the output's contract;
 * exactly_once_v2, one stream thread, a commit every 100 ms. Task and outcome are those of bench/task.py.
 */
public final class Forward {
  private static final int FRAME_BYTES = 5;
  private static final long LONGEST_S = 300;

  private final GenericDatumReader<GenericRecord> reader;
  private final GenericDatumWriter<GenericRecord> writer;
  private final Schema written;
  private final byte[] frame;
  private final long orders;
  private final CountDownLatch done = new CountDownLatch(1);
  private BinaryDecoder decoder;
  private BinaryEncoder encoder;
  private long seen;
  private long began;
  private long cpuBegan;
  private volatile long took;
  private volatile long cpuTook;

  private Forward(Schema read, Schema written, int schemaId, long orders) {
    GenericData typed = new GenericData();
    typed.addLogicalTypeConversion(new Conversions.DecimalConversion());
    typed.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
    this.reader = new GenericDatumReader<>(read, read, typed);
    this.writer = new GenericDatumWriter<>(written, typed);
    this.written = written;
    this.frame = ByteBuffer.allocate(FRAME_BYTES).put((byte) 0).putInt(schemaId).array();
    this.orders = orders;
  }

  /** Called by the one stream thread alone. */
  private KeyValue<byte[], byte[]> forward(byte[] value) {
    if (seen == 0) {
      began = System.nanoTime();
      cpuBegan = cpuNanos();
    }
    try {
      decoder = DecoderFactory.get().binaryDecoder(value, FRAME_BYTES, value.length - FRAME_BYTES, decoder);
      GenericRecord order = reader.read(null, decoder);
      GenericRecord forwarded = new GenericData.Record(written);
      for (Schema.Field field : written.getFields()) {
        forwarded.put(field.pos(), order.get(field.name()));
      }
      ByteArrayOutputStream bytes = new ByteArrayOutputStream(value.length + 16);
      bytes.write(frame);
      encoder = EncoderFactory.get().binaryEncoder(bytes, encoder);
      writer.write(forwarded, encoder);
      encoder.flush();
      byte[] customer = order.get("customer_id").toString().getBytes(StandardCharsets.UTF_8);
      return KeyValue.pair(customer, bytes.toByteArray());
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    } finally {
      if (++seen == orders) {
        took = System.nanoTime() - began;
        cpuTook = cpuNanos() - cpuBegan;
        done.countDown();
      }
    }
  }

  public static void main(String[] arguments) throws Exception {
    ObjectMapper json = new ObjectMapper();
    JsonNode task = json.readTree(arguments[0]);
    String topic = task.get("topic").asText();
    String output = task.get("output").asText();
    Path schemas = Path.of(task.get("schemas").asText());
    long orders = task.get("orders").asLong();
    Forward work = new Forward(
        contract(schemas, topic), contract(schemas, output), registered(json, task.get("registry_url").asText(), output), orders);
    Path state = Files.createTempDirectory("bench-kafka-streams-");

    Properties settings = new Properties();
    settings.put("bootstrap.servers", task.get("bootstrap_servers").asText());
    settings.put("application.id", task.get("group").asText());
    settings.put("auto.offset.reset", "earliest");
    settings.put("processing.guarantee", "exactly_once_v2");
    settings.put("commit.interval.ms", 100);
    settings.put("num.stream.threads", 1);
    settings.put("replication.factor", 1);
    settings.put("state.dir", state.toString());
    settings.put("producer.linger.ms", 5);
    settings.put("producer.batch.size", 65536);
    settings.put("producer.compression.type", "lz4");

    StreamsBuilder topology = new StreamsBuilder();
    topology.stream(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .map((key, value) -> work.forward(value))
        .to(output, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    KafkaStreams streams = new KafkaStreams(topology.build(), settings);
    streams.start();
    boolean finished = work.done.await(LONGEST_S, TimeUnit.SECONDS);
    // It commits on the way out.
    streams.close(Duration.ofSeconds(30));
    if (!finished) {
      System.err.printf("Kafka Streams has not forwarded %d orders in %d s.%n", orders, LONGEST_S);
      System.exit(1);
    }
    System.out.println(json.writeValueAsString(Map.of(
        "orders", orders,
        "seconds", work.took / 1e9,
        "cpu_s", work.cpuTook / 1e9,
        "peak_rss", peakRss(),
        "version", String.valueOf(org.apache.kafka.common.utils.AppInfoParser.getVersion()))));
    System.exit(0);
  }

  private static Schema contract(Path schemas, String topic) throws IOException {
    return new Schema.Parser().parse(Files.readString(schemas.resolve(topic + "-value").resolve("v1.avsc")));
  }

  private static int registered(ObjectMapper json, String registry, String topic) throws Exception {
    URI latest = URI.create(registry + "/subjects/" + topic + "-value/versions/latest");
    String said = HttpClient.newHttpClient().send(HttpRequest.newBuilder(latest).build(), BodyHandlers.ofString()).body();
    return json.readTree(said).get("id").asInt();
  }

  private static long cpuNanos() {
    return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
  }

  private static long peakRss() throws IOException {
    Path status = Path.of("/proc/self/status");
    if (!Files.exists(status)) {
      return 0;
    }
    for (String line : Files.readAllLines(status)) {
      if (line.startsWith("VmHWM:")) {
        return Long.parseLong(line.replaceAll("\\D", "")) * 1024;
      }
    }
    return 0;
  }
}
